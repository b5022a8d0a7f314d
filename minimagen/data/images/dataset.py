"""Captioned images by index, whatever table they come from."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from minimagen.config import Size
from minimagen.config.data import CENTER
from minimagen.config.sizes import nearest
from minimagen.data.dataset import BadSampleError, Row, Table
from minimagen.data.images.absence import FileReader
from minimagen.data.images.cache import PixelCache, Pixels
from minimagen.data.images.decoding import BadImageError, Framing, crop_resize, load_rgb
from minimagen.data.indexed import BaseDataset
from minimagen.sample import Sample

CACHE_BYTES = 2**28  # decoded images kept in memory; beyond it they are decoded when asked for


@dataclass(frozen=True)
class MemoryTable:
    """Rows that are in memory, not on disk."""

    memory: Sequence[Row]

    @property
    def identity(self) -> str:
        """Return a digest of the rows."""
        return hashlib.blake2b(repr(self.memory).encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, index: int) -> Row:
        return self.memory[index]

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield each row's captions."""
        return (row.captions for row in self.memory)


class ImageDataset(BaseDataset):
    """A table's images at one size, each with one of its captions.

    Args:
        table: where the rows come from.
        framing: size, crop and flip.
        validation: the data's own validation set, if it has one.
        cache_bytes: how many bytes of decoded images are kept.
        files: knows what other data sets of the same source could read. Where the whole source
            became unavailable and did not come back, samples raise a UserError.
    """

    def __init__(
        self,
        table: Table,
        framing: Framing | None = None,
        validation: "ImageDataset | None" = None,
        cache_bytes: int = CACHE_BYTES,
        files: FileReader | None = None,
    ) -> None:
        self.table, self.validation = table, validation
        self.framing = framing or Framing()
        self._cache = PixelCache(self.framing.size, len(table), cache_bytes)
        self.files = files or FileReader()

    @cached_property
    def identity(self) -> str:
        """Return the number of images and that of the table."""
        return f"{len(self)} images, {self.table.identity}"

    @property
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of images by their one size."""
        return {self.framing.size: len(self)}

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index, None)

    def draw(self, index: int, rng: Random | None) -> Sample:
        """Draw caption, crop and flip; without ``rng`` they are the first, the middle, and none."""
        row = self.table[index]
        place = self.framing.place(rng)  # always: what is drawn next must not depend on the cache
        pixels = self._cache.get(index)
        if pixels is None:
            pixels, fixed = read_pixels(self._content(row), row.name, self.framing, place)
            if fixed and not self.framing.buckets:
                self._cache.put(index, pixels)
        return finish(row, pixels, self.framing, rng)

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each image, its variants too, and decode none; () for a bad row."""
        return self.table.captions()

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Yield every row; a bad one as its reason."""
        return rows_of(self.table)

    def _content(self, row: Row) -> bytes:
        if isinstance(row.image, bytes):
            return row.image
        try:
            return self.files.read(row.image)
        except OSError as error:
            raise BadImageError(f"{row.name}: {error.strerror}") from error


def rows_of(table: Table) -> Iterator[Row | BadSampleError]:
    """Yield every row of a table; a bad one as its reason."""
    for index in range(len(table)):
        try:
            yield table[index]
        except BadSampleError as error:
            yield error


def read_pixels(
    source: Path | bytes, name: str, framing: Framing, place: tuple[float, float]
) -> tuple[Pixels, bool]:
    """Decode, crop and resize an image; also return whether every ``place`` gives the same.

    Raises:
        BadImageError: it cannot be read.
    """
    longest = max(itertools.chain(framing.size, *framing.buckets))
    whole = load_rgb(source, name, at_least=2 * longest)
    aspect_ratio = whole.width / whole.height
    height, width = size = nearest(framing.buckets or (framing.size,), aspect_ratio)
    enlarged = whole.height < height or whole.width < width
    fixed = framing.crop == CENTER or whole.width * height == whole.height * width
    return Pixels(crop_resize(whole, size, place), enlarged), fixed


def finish(row: Row, pixels: Pixels, framing: Framing, rng: Random | None) -> Sample:
    """Return the sample with the caption and the flip that ``rng`` draws.

    Raises:
        BadSampleError: the row has no caption.
    """
    if not row.captions:
        raise BadSampleError(f"{row.name}: no caption")
    caption = row.captions[0] if rng is None else rng.choice(row.captions)
    image = framing.flipped(pixels.image, rng)
    return Sample(image, caption, row.attributes, row.name, pixels.enlarged)
