"""Images in a seeded order without an index: for data that no disk holds.

A stream cannot be asked for its n-th sample. So it does not promise what an index does: that each
sample comes once per epoch, and that a resumed run sees what the uninterrupted one would have seen.
Its order depends on the seed and on where the run starts.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from minimagen.config import Size
from minimagen.data.dataset import BadSampleError, Description, Row, Stream
from minimagen.data.images.dataset import ImageDataset, MemoryTable, finish, read_pixels
from minimagen.data.images.decoding import Framing
from minimagen.errors import UserError
from minimagen.sample import Sample

PROMISE = (
    "the data is a stream: shards and samples come in an order that depends on the seed, on the "
    "number of processes and workers and on the step a run starts from; a resumed run does not "
    "repeat the uninterrupted one exactly"
)


@dataclass
class ImageStream:
    """A stream's images at one size, or at several, each with one of its captions.

    Attributes:
        source: where the rows come from.
        framing: size, crop and flip.
        validation: the data's own validation set, if it has one.
        training_share: of the rows, where they are not all for training; a row belongs to one side
            for ever, by its name.
        opened: what `load_dataset` was asked for.
    """

    source: Stream
    framing: Framing
    validation: "ImageStream | None" = None
    training_share: float = 1.0
    opened: Description = field(default_factory=dict)
    repeatable: Literal[False] = False
    endless = False

    @property
    def description(self) -> Description:
        """Return what it was opened with, or the name of its class."""
        return self.opened or {"dataset": type(self.source).__qualname__}

    @property
    def identity(self) -> str:
        """Return that of the source."""
        return self.source.identity

    @property
    def sizes(self) -> Mapping[Size, None]:
        """Return the sizes of its images; nobody has counted them."""
        return dict.fromkeys(self.framing.buckets or (self.framing.size,))

    def at_most(self, count: int, seed: int = 0) -> "ImageStream":
        """Return the whole stream: nobody has counted its images."""
        return self

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each row once; an empty tuple for a bad one."""
        return self.source.captions()

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Yield every row once; a bad one as its reason."""
        return self.source.once()

    def samples(self, seed: int, reader: int, readers: int) -> Iterator[Sample | BadSampleError]:
        """Yield training samples without end; what is bad is yielded as its reason."""
        rng = Random(f"{seed} {reader} of {readers}")
        for row in self.source.shuffled(seed, reader, readers):
            if isinstance(row, BadSampleError):
                yield row
            elif position_of(row.name) < self.training_share:
                yield _sample(row, self.framing, rng)

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> tuple["ImageStream", ImageDataset]:
        """Return the training part and up to ``count`` images for validation.

        See `StreamedDataset.split`.

        Raises:
            UserError: there are none for validation.
        """
        training = self if self.validation else replace(self, training_share=fraction)
        good = (row for row in (self.validation or self).rows() if isinstance(row, Row))
        if not self.validation:
            good = (row for row in good if position_of(row.name) >= fraction)
        first = list(itertools.islice(good, count))
        if not first:
            raise UserError(f"no images for validation in a share of {1 - fraction:.3g}: give more")
        return training, ImageDataset(MemoryTable(first), self.framing)


def position_of(name: str) -> float:
    """Return a number in [0, 1) that depends on a row's name only."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _sample(row: Row, framing: Framing, rng: Random) -> Sample | BadSampleError:
    try:
        pixels, _ = read_pixels(row.image, row.name, framing, framing.place(rng))
        return finish(row, pixels, framing, rng)
    except BadSampleError as error:
        return error
