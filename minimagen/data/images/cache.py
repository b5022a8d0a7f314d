"""Decoded images in one block of memory."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from minimagen.config import Size


class Pixels(NamedTuple):
    """An image of the wanted size, uint8 [h w 3], and whether it had to be enlarged."""

    image: np.ndarray
    enlarged: bool


class PixelCache:
    """The first images of one size that are put in, at most ``count`` and ``max_bytes`` of them.

    They lie in one block, gray ones in another, which has one channel. Many small arrays would lie
    on the heap between the large buffers of training, which then cannot be reused in one piece: the
    process would grow with every step.
    """

    def __init__(self, size: Size, count: int, max_bytes: int) -> None:
        self.size, self._count, self._max_bytes = size, count, max_bytes
        self._bytes = 0  # of the images that are kept
        self._blocks: dict[int, np.ndarray] = {}  # by the number of channels
        self._used: Counter[int] = Counter()  # places of each block
        self._places: dict[int, tuple[int, int, bool]] = {}  # channels, place, enlarged

    def __len__(self) -> int:
        return len(self._places)

    def get(self, index: int) -> Pixels | None:
        """Return an image, None where it is not kept."""
        if index not in self._places:
            return None
        channels, place, enlarged = self._places[index]
        image = self._blocks[channels][place]
        return Pixels(image if channels == 3 else image.repeat(3, axis=2), enlarged)

    def put(self, index: int, pixels: Pixels) -> None:
        """Keep an image that is not there yet, while there is space."""
        image = pixels.image
        kept = image[..., :1] if (image == image[..., :1]).all() else image
        if len(self) == self._count or self._bytes + kept.nbytes > self._max_bytes:
            return
        channels = kept.shape[-1]
        if channels not in self._blocks:  # not earlier: a data set travels without it
            capacity = min(self._count, self._max_bytes // kept.nbytes)
            self._blocks[channels] = np.empty((capacity, *kept.shape), np.uint8)
        place = self._used[channels]
        self._blocks[channels][place] = kept
        self._places[index] = channels, place, pixels.enlarged
        self._used[channels] += 1
        self._bytes += kept.nbytes
