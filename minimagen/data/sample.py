"""What every data set hands over: one captioned picture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One captioned picture.

    Attributes:
        image: uint8 [h, w, 3], RGB, 0 to 255.
        caption: what the picture shows, in words.
        attributes: the truth about the picture by name, empty where nobody knows it.
        name: the file's name, or the index in a drawn data set; used in messages.
    """

    image: np.ndarray
    caption: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    name: str = ""


class CaptionedDataset(Protocol):
    """Captioned pictures by index; the same index always gives the same sample."""

    def __len__(self) -> int:
        """Return the number of samples in one epoch."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Return one sample."""
        ...
