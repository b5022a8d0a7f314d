"""What every data set hands over: one captioned image. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One captioned image.

    Attributes:
        image: uint8 [h, w, 3], RGB, 0 to 255.
        caption: what the image shows, in words.
        attributes: what is known to be in the image, by name; empty where nothing is.
        name: the file's name, or the index in a drawn data set; used in messages.
        enlarged: the source was smaller than the image.
    """

    image: np.ndarray
    caption: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    enlarged: bool = False
