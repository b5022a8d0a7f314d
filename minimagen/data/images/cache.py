"""Decoded images in one block of memory."""

from typing import NamedTuple

import numpy as np

from minimagen.config import Size


class Pixels(NamedTuple):
    """An image of the wanted size, uint8 [h w 3], and whether it had to be enlarged."""

    image: np.ndarray
    enlarged: bool


class PixelCache:
    """The first images of one size that are put in, at most ``count`` and ``max_bytes`` of them.

    They are views of one block. Many small arrays would lie on the heap between the large buffers
    of training, which then cannot be reused in one piece: the process would grow with every step.
    """

    def __init__(self, size: Size, count: int, max_bytes: int) -> None:
        self.size = size
        self.capacity = min(count, max_bytes // (3 * size[0] * size[1]))
        self._block: np.ndarray | None = None
        self._places: dict[int, tuple[int, bool]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def get(self, index: int) -> Pixels | None:
        """Return an image, None where it is not kept."""
        if self._block is None or index not in self._places:
            return None
        place, enlarged = self._places[index]
        return Pixels(self._block[place], enlarged)

    def put(self, index: int, pixels: Pixels) -> None:
        """Keep an image that is not there yet, while there is space."""
        place = len(self._places)
        if place >= self.capacity:
            return
        if self._block is None:  # not earlier: a data set travels to other processes without it
            self._block = np.empty((self.capacity, *self.size, 3), np.uint8)
        self._block[place] = pixels.image
        self._places[index] = place, pixels.enlarged
