"""Images in a seeded order without an index: for data that no disk holds.

It does not promise what an index does: that each sample comes once per epoch, and that a resumed
run sees what the uninterrupted one would have seen.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from minimagen.config import Size
from minimagen.data.dataset import BadSampleError, Description, Row, Stream
from minimagen.data.images.dataset import ImageDataset, MemoryTable, finish, read_pixels
from minimagen.data.images.decoding import Framing
from minimagen.draws import rng
from minimagen.errors import UserError
from minimagen.sample import Sample

PASSED_OVER = 1000  # validation rows one after the other, divided by the training share
PROMISE = (
    "the data is a stream: shards and samples come in an order that depends on the seed, on the "
    "number of processes and workers and on the step a run starts from; a resumed run does not "
    "repeat the uninterrupted one exactly"
)


@dataclass
class ImageStream:
    """A stream's images at one size, or at several, each with one of its captions.

    Where ``training_share`` is below 1, the other rows are for validation: a row belongs to one
    side forever, by its name. `load_dataset` describes what it was asked for.
    """

    source: Stream
    framing: Framing
    validation: "ImageStream | None" = None
    training_share: float = 1.0
    description: Description = field(default_factory=lambda: {"dataset": "stream"})
    repeatable: Literal[False] = False
    endless = False

    @property
    def identity(self) -> str:
        """Return that of the source."""
        return self.source.identity

    @property
    def sizes(self) -> Mapping[Size, None]:
        """Return the sizes of its images; they are not counted."""
        return dict.fromkeys(self.framing.buckets or (self.framing.size,))

    def at_most(self, count: int, seed: int = 0) -> "ImageStream":
        """Return the whole stream: its images are not counted."""
        return self

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each row once; an empty tuple for a bad one."""
        return self.source.captions()

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Yield every row once; a bad one as its reason."""
        return self.source.once()

    def samples(self, seed: int, reader: int, readers: int) -> Iterator[Sample | BadSampleError]:
        """Yield training samples without end; what is bad is yielded as its reason."""
        draws = rng(seed, reader, "of", readers)
        passed = 0
        for row in self.source.shuffled(seed, reader, readers):
            if isinstance(row, BadSampleError):
                yield row
            elif position_of(row.name) < self.training_share:
                passed = 0
                yield _sample(row, self.framing, draws)
            else:
                passed += 1
            if passed > PASSED_OVER / self.training_share:
                raise UserError(
                    f"{passed} images in a row belong to the validation part: the stream has too "
                    f"few different images for a training share of {self.training_share}"
                )

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> tuple["ImageStream", ImageDataset]:
        """Return the training part and up to ``count`` images for validation."""
        training = self if self.validation else replace(self, training_share=fraction)
        share = 0.0 if self.validation else fraction
        good, bad, found = 0, list[BadSampleError](), list[Row]()
        for row in (self.validation or self).rows():
            if isinstance(row, BadSampleError):
                bad.append(row)
                continue
            good += 1
            if position_of(row.name) >= share:
                found.append(row)
            if len(found) == count:
                break
        if found:
            return training, ImageDataset(MemoryTable(found), self.framing)
        if good:
            raise UserError(
                f"none of {good} images falls into the validation part, a share of "
                f"{1 - share:.3g}: give a smaller `train_valid_frac` or a validation set"
            )
        if bad:
            raise UserError(f"no usable image: all {len(bad)} are bad; the first: {bad[0]}")
        raise UserError("no images: the source holds none, or none that fits `where`")


def position_of(name: str) -> float:
    """Return a number in [0, 1) that depends on a row's name only."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _sample(row: Row, framing: Framing, draws: Random) -> Sample | BadSampleError:
    try:
        pixels, _ = read_pixels(row.image, row.name, framing, framing.place(draws))
        return finish(row, pixels, framing, draws)
    except BadSampleError as error:
        return error
