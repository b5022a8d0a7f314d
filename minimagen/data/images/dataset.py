"""Captioned pictures by index, whatever table they come from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol

import numpy as np

from minimagen.data.dataset import BadSampleError
from minimagen.data.images.absence import FileReader
from minimagen.data.images.decoding import BadImageError, Framing, crop_resize, load_rgb
from minimagen.sample import Sample

CACHE_BYTES = 2**28  # decoded pictures kept in memory; beyond it they are decoded when asked for


@dataclass(frozen=True, slots=True)
class Row:
    """One picture, not yet decoded, with all its captions.

    Attributes:
        picture: the file, or its content.
        captions: one or more are wanted; several are variants of which training draws one.
        name: what messages call the picture.
        attributes: what else the table says in words.
    """

    picture: Path | bytes
    captions: tuple[str, ...]
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The picture file's bytes.

        Raises:
            OSError: it cannot be read.
        """
        return self.picture if isinstance(self.picture, bytes) else self.picture.read_bytes()


class PictureTable(Protocol):
    """Rows by index, read from disk when asked for: memory does not grow with their number."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def __getitem__(self, index: int) -> Row:
        """Return one row.

        Raises:
            BadSampleError: it holds no picture.
        """
        ...


class Pixels(NamedTuple):
    """A picture of the wanted size, and whether it had to be enlarged."""

    image: np.ndarray
    enlarged: bool


class PictureDataset:
    """A table's pictures at one size, each with one of its captions."""

    def __init__(
        self,
        table: PictureTable,
        framing: Framing | None = None,
        validation: "PictureDataset | None" = None,
        cache_bytes: int = CACHE_BYTES,
        files: FileReader | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            table: where the rows come from.
            framing: size, crop and flip.
            validation: the data's own validation set, if it has one.
            cache_bytes: how many bytes of decoded pictures are kept.
            files: knows what other data sets of the same source could read.
        """
        self.table, self.validation = table, validation
        self.framing = framing or Framing()
        height, width = self.framing.size
        self._room = cache_bytes // (3 * height * width)
        self._cache: dict[int, Pixels] = {}
        self.files = files or FileReader()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        """Return a picture, cropped in the middle, with its first caption.

        Raises:
            BadSampleError: it cannot be read, or has no caption.
            UserError: the folder that it is in went away and did not come back.
        """
        return self._sample(index, None)

    def draw(self, index: int, rng: Random) -> Sample:
        """Return a picture with caption, crop and flip drawn with ``rng``.

        Raises:
            BadSampleError: it cannot be read, or has no caption.
            UserError: the folder that it is in went away and did not come back.
        """
        return self._sample(index, rng)

    def __iter__(self) -> Iterator[Sample]:
        """Go through all pictures once."""
        return (self[index] for index in range(len(self)))

    def _sample(self, index: int, rng: Random | None) -> Sample:
        row = self.table[index]
        place = self.framing.place(rng)  # always: what is drawn next must not depend on the cache
        pixels = self._cache.get(index)
        if pixels is None:
            pixels, fixed = read_pixels(self._content(row), row.name, self.framing, place)
            if fixed and len(self._cache) < self._room:
                self._cache[index] = pixels
        return finish(row, pixels, self.framing, rng)

    def _content(self, row: Row) -> bytes:
        if isinstance(row.picture, bytes):
            return row.picture
        try:
            return self.files.read(row.picture)
        except OSError as error:
            raise BadImageError(f"{row.name}: {error.strerror}") from error


def read_pixels(
    source: Path | bytes, name: str, framing: Framing, place: tuple[float, float]
) -> tuple[Pixels, bool]:
    """Decode, crop and resize a picture; also tell whether any ``place`` gives the same.

    Raises:
        BadImageError: it cannot be read.
    """
    picture = load_rgb(source, name, at_least=2 * framing.longest)
    framing = framing.fitted(picture)
    image = crop_resize(picture, framing.size, place)
    return Pixels(image, framing.enlarges(picture)), framing.is_fixed(picture)


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
