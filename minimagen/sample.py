"""What every data set hands over: one captioned image. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One captioned picture.

    Attributes:
        image: uint8 [h, w, 3], RGB, 0 to 255.
        caption: what the picture shows, in words.
        attributes: the truth about the picture by name, empty where nobody knows it.
        name: the file's name, or the index in a drawn data set; used in messages.
        enlarged: the source was smaller than the picture.
    """

    image: np.ndarray
    caption: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    enlarged: bool = False
