"""What a data set is and what it says of itself: protocols, from rows to captioned images.

A source gives rows: a `Table` by index, a `Stream` in some order. A data set makes samples of them:
an `IndexedDataset` gives any of them at any time, so that every step of a run can be repeated; a
`StreamedDataset` gives them as they come. `minimagen.data.indexed` has what indexed ones share.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, Protocol, runtime_checkable

from minimagen.config import Size
from minimagen.sample import Sample

Description = Mapping[str, str | int | bool | None]
"""What a data set was opened with, by the name of `DataConfig`'s field."""


class BadSampleError(Exception):
    """A sample that cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image, not yet decoded, with all its captions.

    Attributes:
        image: the file, or its content.
        captions: one or more are wanted; several are variants of which training draws one.
        name: what messages call the image.
        attributes: what else the table says in words.
    """

    image: Path | bytes
    captions: tuple[str, ...]
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The image file's bytes; an OSError where it cannot be read."""
        return self.image if isinstance(self.image, bytes) else self.image.read_bytes()


class Table(Protocol):
    """Rows by index, read from disk when asked for: memory does not grow with their number.

    For a row that holds no image, ``table[index]`` raises a BadSampleError.
    """

    @property
    def identity(self) -> str:
        """Return what changes whenever the rows do: results kept on disk are found by it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield each row's captions, no image read; an empty tuple for a bad row."""


class Stream(Protocol):
    """Rows in some order, read from wherever they are."""

    @property
    def identity(self) -> str:
        """Return what stays the same when the rows move to another place."""

    def shuffled(self, seed: int, reader: int, readers: int) -> Iterator[Row | BadSampleError]:
        """Yield rows without end, in a seeded order; ``readers`` share the work."""

    def once(self) -> Iterator[Row | BadSampleError]:
        """Yield every row once, always in the same order."""

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield each row's captions once; an empty tuple for a bad row."""


class Samples(Protocol):
    """Captioned images by index; the same index always gives the same sample.

    For a bad one ``samples[index]`` raises a BadSampleError; training takes another and counts it.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...


class _Described(Protocol):
    """What training, checking and encoding ask of any data set."""

    @property
    def description(self) -> Description:
        """Return what it was opened with, for ``data.json``."""

    @property
    def identity(self) -> str:
        """Return what distinguishes its content from another's, wherever the files are."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[Size, int | None]:
        """Return how many samples of each size come in an epoch, in the order of their indices.

        All samples of a batch have one size. None: not counted, as in a stream.
        """

    @property
    def endless(self) -> bool:
        """Return whether samples are drawn without end; an epoch is then a number of them."""

    @property
    def validation(self) -> "Dataset | None":
        """Return the data's own validation set, if it has one."""

    def at_most(self, count: int, seed: int = 0) -> "Dataset":
        """Return ``count`` samples drawn at random, or all: where there are fewer or no end."""

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> tuple["Dataset", Samples]:
        """Return the training and the validation part.

        Args:
            fraction: the training share, in (0, 1), where the data has no division of its own.
            seed: of a random division. A row of a stream belongs to one part forever, by its name.
            count: the validation samples that will be used at most; a stream gives no more.

        Raises:
            UserError: the fraction is out of range, or one part would be empty.
        """

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each image of an epoch, no image decoded; () for a bad one."""

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Yield every row of an epoch, a bad one as its reason; a UserError without files."""


@runtime_checkable
class IndexedDataset(Samples, _Described, Protocol):
    """Samples by index: any step of a run can be repeated."""

    @property
    def repeatable(self) -> Literal[True]:
        """Return True: it is not a stream."""

    def draw(self, index: int, rng: Random) -> Sample:
        """Return ``self[index]`` as training sees it: what it leaves open is drawn with ``rng``."""


@runtime_checkable
class StreamedDataset(_Described, Protocol):
    """Samples as they come: the order depends on the seed and on where a run starts."""

    @property
    def repeatable(self) -> Literal[False]:
        """Return False: it is a stream."""

    def samples(self, seed: int, reader: int, readers: int) -> Iterator[Sample | BadSampleError]:
        """Yield training samples without end; what is bad is yielded as its reason."""


Dataset = IndexedDataset | StreamedDataset


def count_of(dataset: Dataset) -> int | None:
    """Return the number of samples in an epoch, None where they are not counted."""
    counts = [count for count in dataset.sizes.values() if count is not None]
    return sum(counts) if len(counts) == len(dataset.sizes) else None
