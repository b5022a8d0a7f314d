"""Pictures in a seeded order without an index: for data that no disk holds.

A stream cannot be asked for its n-th sample. So it does not promise what an index does: that each
sample comes once per epoch, and that a resumed run sees what the uninterrupted one would have seen.
Its order depends on the seed and on where the run starts.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from minimagen.data.dataset import BadSampleError, CaptionedDataset
from minimagen.data.images.dataset import PictureDataset, Row, finish, read_pixels
from minimagen.data.images.decoding import Framing
from minimagen.errors import UserError
from minimagen.sample import Sample

PROMISE = (
    "the data is a stream: shards and samples come in an order that depends on the seed, on the "
    "number of processes and workers and on the step a run starts from; a resumed run does not "
    "repeat the uninterrupted one exactly"
)


class RowStream(Protocol):
    """Rows in some order, read from wherever they are."""

    def shuffled(self, seed: int, reader: int, readers: int) -> Iterator[Row | BadSampleError]:
        """Yield rows without end, in a seeded order; ``readers`` share the work."""
        ...

    def once(self) -> Iterator[Row | BadSampleError]:
        """Yield every row once, always in the same order."""
        ...


@dataclass(frozen=True)
class PictureStream:
    """A stream's pictures at one size, each with one of its captions.

    Attributes:
        source: where the rows come from.
        framing: size, crop and flip.
        validation: the data's own validation rows, if it has some.
        training_share: of the rows, where they are not all for training; a row belongs to one side
            for ever, by its name.
    """

    source: RowStream
    framing: Framing
    validation: RowStream | None = None
    training_share: float = 1.0

    def __len__(self) -> int:
        """Refuse: nobody has counted.

        Raises:
            UserError: always.
        """
        raise UserError("a stream has no length, so no epochs: give --STEPS or --MINUTES instead")

    def samples(self, seed: int, reader: int, readers: int) -> Iterator[Sample | BadSampleError]:
        """Yield training samples without end; what is bad is yielded as its reason."""
        rng = Random(f"{seed} {reader} of {readers}")
        for row in self.source.shuffled(seed, reader, readers):
            if isinstance(row, BadSampleError):
                yield row
            elif position_of(row.name) < self.training_share:
                yield _sample(row, self.framing, rng)

    def split(self, share: float, count: int) -> tuple["PictureStream", PictureDataset]:
        """Return the training part and up to ``count`` pictures for validation.

        Raises:
            UserError: there are none for validation.
        """
        training = self if self.validation else replace(self, training_share=share)
        rows = (self.validation or self.source).once()
        good = (row for row in rows if isinstance(row, Row))
        if not self.validation:
            good = (row for row in good if position_of(row.name) >= share)
        head = list(itertools.islice(good, count))
        if not head:
            raise UserError(f"no pictures for validation in a share of {1 - share:.3g}: give more")
        return training, PictureDataset(head, self.framing)


TrainingData = CaptionedDataset | PictureStream


def position_of(name: str) -> float:
    """Return a number in [0, 1) that depends on a row's name only."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _sample(row: Row, framing: Framing, rng: Random) -> Sample | BadSampleError:
    try:
        pixels, _ = read_pixels(row.picture, row.name, framing, framing.place(rng))
        return finish(row, pixels, framing, rng)
    except BadSampleError as error:
        return error
