"""What data sets with an index share: parts of them, and a class of the user's own among them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from random import Random
from typing import Literal

from minimagen.config import Size
from minimagen.data.dataset import (
    BadSampleError,
    Dataset,
    Description,
    IndexedDataset,
    Row,
    Samples,
    StreamedDataset,
)
from minimagen.data.permutation import Permutation
from minimagen.errors import UserError
from minimagen.sample import Sample

LOOKED_AT = 256  # rows whose captions distinguish one data set from another


class BaseDataset(ABC):
    """An indexed data set of images of one size.

    A class of your own may derive from it, to draw captions and crops anew in each epoch (`draw`)
    or to have a validation set of its own.
    """

    repeatable: Literal[True] = True
    endless = False
    validation: IndexedDataset | None = None
    opened: Description = {}
    """What `load_dataset` was asked for, if the data set is from there."""

    @property
    def description(self) -> Description:
        """Return what it was opened with, or the name of its class."""
        return self.opened or {"dataset": type(self).__qualname__}

    @cached_property
    def identity(self) -> str:
        """Return the number of samples and a digest of some captions, evenly spaced."""
        places = range(0, len(self), max(1, len(self) // LOOKED_AT))
        digest = hashlib.blake2b(repr([*map(self._captions_of, places)]).encode(), digest_size=8)
        return f"{len(self)} images, captions {digest.hexdigest()}"

    @property
    @abstractmethod
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of samples by their size."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return one sample.

        Raises:
            BadSampleError: it cannot be used.
        """

    def __iter__(self) -> Iterator[Sample]:
        """Go through all samples once."""
        return (self[index] for index in range(len(self)))

    def draw(self, index: int, rng: Random) -> Sample:
        """Return a sample with what it leaves open drawn with ``rng``: here nothing.

        Raises:
            BadSampleError: it cannot be used.
        """
        return self[index]

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each sample; an empty tuple for a bad one."""
        return map(self._captions_of, range(len(self)))

    def _captions_of(self, index: int) -> tuple[str, ...]:
        """Return the captions of one sample; none of a bad one."""
        try:
            return (self[index].caption,)
        except BadSampleError:
            return ()

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Refuse: it is not known to be made of files.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.description['dataset']} is not read from files: nothing to check")

    def at_most(self, count: int, seed: int = 0) -> IndexedDataset:
        """Return ``count`` samples drawn at random, or all, where there are no more."""
        if count >= len(self):
            return self
        return Subset(self, Permutation(len(self), "at most", seed), range(count))

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> tuple[IndexedDataset, Samples]:
        """Return the data and its own validation set, or divide it at random.

        All captions of an image are on one side. See `minimagen.data.dataset`.

        Raises:
            UserError: the fraction is out of range, or there are fewer than two samples.
        """
        if self.validation is not None:
            return self, self.validation
        check_division(len(self), fraction)
        return divide(self, fraction, seed)


class Subset(BaseDataset):
    """Some samples of a shuffled data set."""

    def __init__(self, dataset: IndexedDataset, order: Permutation, places: range) -> None:
        self.dataset, self.order, self.places = dataset, order, places
        self.opened = dataset.description

    @cached_property
    def identity(self) -> str:
        """Return that of the whole data set."""
        return self.dataset.identity

    @property
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of samples by their one size."""
        (size,) = self.dataset.sizes
        return {size: len(self)}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample."""
        return self.dataset[self.order[self.places[index]]]

    def draw(self, index: int, rng: Random) -> Sample:
        """Return one sample with what it leaves open drawn with ``rng``."""
        return self.dataset.draw(self.order[self.places[index]], rng)


class WrappedDataset(BaseDataset):
    """A class of the user's own that has a length and samples and nothing else."""

    def __init__(self, own: Samples) -> None:
        self.own = own
        self.opened = {"dataset": type(own).__qualname__}

    @property
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of samples by the size of the first good one.

        Raises:
            UserError: all samples are bad.
        """
        for index in range(len(self.own)):
            try:
                height, width = self.own[index].image.shape[:2]
            except BadSampleError:
                continue
            return {(height, width): len(self.own)}
        raise UserError(f"all {len(self.own)} samples of {self.description['dataset']} are bad")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.own)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample."""
        return self.own[index]


def as_dataset(given: Dataset | Samples) -> Dataset:
    """Return a data set that says all that training asks, whatever the user's own class says."""
    if isinstance(given, IndexedDataset | StreamedDataset):
        return given
    return WrappedDataset(given)


def divide(dataset: IndexedDataset, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Divide two or more samples of one size at random; each side has at least one."""
    length = len(dataset)
    order = Permutation(length, "split", seed)
    kept = min(max(round(fraction * length), 1), length - 1)
    return Subset(dataset, order, range(kept)), Subset(dataset, order, range(kept, length))


def check_division(length: int, fraction: float) -> None:
    """Raise a UserError unless so many images can be divided with this training share."""
    if not 0 < fraction < 1 or length < 2:
        raise UserError(
            f"cannot divide {length} images with a training share of {fraction}: give at "
            "least 2 images and a share between 0 and 1, such as 0.9"
        )
