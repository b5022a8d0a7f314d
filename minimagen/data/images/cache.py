"""Decoded images in one block of memory."""

from typing import NamedTuple

import numpy as np

from minimagen.config import Size


class Pixels(NamedTuple):
    """An image of the wanted size, uint8 [h w 3], and whether it had to be enlarged."""

    image: np.ndarray
    enlarged: bool


class PixelCache:
    """The first images that are put in, in a block that is allocated at once and filled on demand.

    Many small arrays instead would lie on the heap between the large buffers of training, which
    then cannot be reused in one piece: the process would grow with every step.

    Args:
        size: (height, width) of all images.
        count: how many there are at most.
        max_bytes: of the block.
    """

    def __init__(self, size: Size, count: int, max_bytes: int) -> None:
        self.size = size
        self.capacity = min(count, max_bytes // (3 * size[0] * size[1]))
        self._block: np.ndarray | None = None
        self._enlarged = np.zeros(0, bool)
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of images that are kept."""
        return len(self._places)

    def get(self, index: int) -> Pixels | None:
        """Return an image, a view of the block; None where it is not kept."""
        place = self._places.get(index)
        if place is None or self._block is None:
            return None
        return Pixels(self._block[place], bool(self._enlarged[place]))

    def put(self, index: int, pixels: Pixels) -> None:
        """Keep an image that is not there yet, while there is room."""
        place = len(self._places)
        if place >= self.capacity:
            return
        if self._block is None:  # not earlier: a data set travels to other processes without it
            self._block = np.empty((self.capacity, *self.size, 3), np.uint8)
            self._enlarged = np.empty(self.capacity, bool)
        self._block[place], self._enlarged[place] = pixels
        self._places[index] = place
