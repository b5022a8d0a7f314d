"""What data sets with an index share: parts of them, and a class of the user's own among them."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

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


class BaseDataset(IndexedDataset):
    """An indexed data set.

    A class of your own may derive from it: it has samples, a length and one size (`sizes`). It may
    draw captions and crops anew in each epoch (`draw`), or have a validation set of its own.
    """

    repeatable: Literal[True] = True
    endless: bool = False
    validation: IndexedDataset | None = None

    @cached_property
    def description(self) -> Description:
        """Return the name of its class; `load_dataset` replaces it by what it was asked for."""
        return {"dataset": type(self).__qualname__}

    @cached_property
    def identity(self) -> str:
        """Return the number of samples and a digest of some captions, evenly spaced."""
        places = range(0, len(self), max(1, len(self) // LOOKED_AT))
        digest = hashlib.blake2b(repr([*map(self._captions_of, places)]).encode(), digest_size=8)
        return f"{len(self)} images, captions {digest.hexdigest()}"

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def draw(self, index: int, rng: Random) -> Sample:
        """Return ``self[index]``, which leaves nothing open here."""
        return self[index]

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each sample; an empty tuple for a bad one."""
        return map(self._captions_of, range(len(self)))

    def _captions_of(self, index: int) -> tuple[str, ...]:
        try:
            return (self[index].caption,)
        except BadSampleError:
            return ()

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Raise a UserError: it is not known to be made of files."""
        raise UserError(f"{self.description['dataset']} is not read from files: nothing to check")

    def _by_size(self) -> Mapping[Size, IndexedDataset]:
        (size,) = self.sizes
        return {size: self}

    def at_most(self, count: int, seed: int = 0) -> IndexedDataset:
        """Return ``count`` samples drawn at random, of each size its share; or all."""
        if count >= len(self):
            return self
        parts: dict[Size, IndexedDataset] = {}
        seen = kept = 0
        for size, whole in self._by_size().items():
            seen += len(whole)
            more = count * seen // len(self) - kept
            kept += more
            parts[size] = Part(whole, Permutation(len(whole), "at most", seed), range(more))
        return Buckets(parts, self.validation, self.description)

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> tuple[IndexedDataset, IndexedDataset]:
        """Return the data and its own validation set, or divide it: all captions stay together."""
        if self.validation is not None:
            return self, self.validation
        if not 0 < fraction < 1 or len(self) < 2:
            raise UserError(
                f"cannot divide {len(self)} images with a training share of {fraction}: give at "
                "least 2 images and a share between 0 and 1, such as 0.9"
            )
        training: dict[Size, IndexedDataset] = {}
        validation: dict[Size, IndexedDataset] = {}
        for size, whole in self._by_size().items():
            order = Permutation(len(whole), "split", seed)
            kept = min(max(round(fraction * len(whole)), 1), len(whole) - 1)
            training[size] = Part(whole, order, range(kept))
            validation[size] = Part(whole, order, range(kept, len(whole)))
        return Buckets(training, None, self.description), Buckets(validation)


class Part(BaseDataset):
    """Some samples of a data set, at these places of a shuffled order."""

    def __init__(self, dataset: IndexedDataset, order: Permutation, places: range) -> None:
        self.dataset, self.order, self.places = dataset, order, places
        self.description = dataset.description

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
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.order[self.places[index]]]

    def draw(self, index: int, rng: Random) -> Sample:
        """Draw what a sample leaves open."""
        return self.dataset.draw(self.order[self.places[index]], rng)


def mixed(dataset: IndexedDataset, seed: int) -> Part:
    """Return all samples in a random order."""
    return Part(dataset, Permutation(len(dataset), "mixed", seed), range(len(dataset)))


class Buckets(BaseDataset):
    """Data sets of one size each, one after the other; empty ones are left out."""

    def __init__(
        self,
        parts: Mapping[Size, IndexedDataset],
        validation: IndexedDataset | None = None,
        description: Description | None = None,
    ) -> None:
        self.parts = {size: part for size, part in parts.items() if len(part)}
        self.validation = validation
        if description:
            self.description = description
        self._in_order = list(self.parts.values())
        self._starts = [0, *accumulate(map(len, self._in_order))]

    @property
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of samples of each size."""
        return {size: len(part) for size, part in self.parts.items()}

    @cached_property
    def identity(self) -> str:
        """Return those of the parts."""
        return ", ".join(part.identity for part in self._in_order)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        part, place = self._find(index)
        return part[place]

    def draw(self, index: int, rng: Random) -> Sample:
        """Draw what a sample leaves open."""
        part, place = self._find(index)
        return part.draw(place, rng)

    def _find(self, index: int) -> tuple[IndexedDataset, int]:
        part = bisect_right(self._starts, index) - 1
        return self._in_order[part], index - self._starts[part]

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each sample, size by size."""
        return chain.from_iterable(part.captions() for part in self._in_order)

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Yield every row, size by size."""
        return chain.from_iterable(part.rows() for part in self._in_order)

    def _by_size(self) -> Mapping[Size, IndexedDataset]:
        return self.parts

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> tuple[IndexedDataset, IndexedDataset]:
        """Divide as others do; the first images of the validation part are of all sizes."""
        training, validation = super().split(fraction, seed, count)
        if self.validation is None:
            validation = mixed(validation, seed)
        return training, validation


class WrappedDataset(BaseDataset):
    """A class of the user's own that has a length and samples and nothing else."""

    def __init__(self, own: Samples) -> None:
        self.own = own
        self.description = {"dataset": type(own).__qualname__}

    @cached_property
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of samples by the size of the first good one, or raise a UserError."""
        for index in range(len(self.own)):
            try:
                height, width = self[index].image.shape[:2]
            except BadSampleError:
                continue
            return {(height, width): len(self.own)}
        raise UserError(f"all {len(self.own)} samples of {self.description['dataset']} are bad")

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: int) -> Sample:
        sample: Any = self.own[index]
        if not isinstance(sample, Sample):
            raise self._error(index, f"is a {type(sample).__name__}")
        if not isinstance(sample.caption, str):
            raise self._error(index, f"has the caption {sample.caption!r}")
        image: Any = sample.image
        shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", type(image).__name__)
        if not isinstance(image, np.ndarray) or dtype != np.uint8 or shape[2:] != (3,):
            raise self._error(index, f"has an image {dtype} {list(shape)}")
        return sample

    def _error(self, index: int, what: str) -> UserError:
        return UserError(
            f"sample {index} of {self.description['dataset']} {what}; give "
            "minimagen.Sample(image, caption), the image a numpy array uint8 [h w 3], or open "
            "files with load_dataset"
        )


def as_dataset(given: Dataset | Samples) -> Dataset:
    """Return a data set that says all that training asks, whatever the user's own class says.

    Raises:
        UserError: It is a name, or has no length or no index.
    """
    if isinstance(given, IndexedDataset | StreamedDataset):
        return given
    what = type(given).__name__
    if isinstance(given, str | Path):
        raise UserError(f"the data set is a {what}, {str(given)!r}: open it with load_dataset")
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise UserError(f"the data set is a {what}: it needs a length and samples by index")
    return WrappedDataset(given)
