"""Aspect buckets: images keep their aspect ratio, and all images of a batch have one size.

Each image gets the size whose aspect ratio is nearest to its own (as NovelAI trained), of the sizes
that several images have. The headers of all images are read for it, once: the result is kept on the
disk.
"""

import bisect
import hashlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from minimagen.config import Size
from minimagen.config.sizes import nearest
from minimagen.data.bad_samples import BAD_SHARE, JUDGED_FROM
from minimagen.data.dataset import (
    BadSampleError,
    Description,
    IndexedDataset,
    Row,
    Samples,
    Table,
)
from minimagen.data.images.dataset import CACHE_BYTES, ImageDataset
from minimagen.data.images.decoding import DAMAGE, upright_size
from minimagen.data.indexed import BaseDataset, Subset, check_division, divide
from minimagen.data.permutation import Permutation
from minimagen.errors import UserError
from minimagen.sample import Sample
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing

LEAST = 8  # images of a size; fewer would be trained on as a batch of copies
READERS = 8  # threads: most of the time goes by waiting for the disk
READ_AT_ONCE = 64  # headers; some tables read whole files with them
UNREADABLE = 255
FORMAT = 1  # of what stays on the disk

log = logging.getLogger(__name__)


class Buckets(BaseDataset):
    """Data sets whose samples have one size each, one after the other.

    Args:
        parts: the data set of each size; empty ones are left out.
        validation: the data's own validation set, if it has one; its samples may have any size.
        opened: what `load_dataset` was asked for.
    """

    def __init__(
        self,
        parts: Mapping[Size, IndexedDataset],
        validation: IndexedDataset | None = None,
        opened: Description | None = None,
    ) -> None:
        self.parts = {size: part for size, part in parts.items() if len(part)}
        self.validation, self.opened = validation, opened or {}
        self._in_order = list(self.parts.values())
        self._starts = [0, *itertools.accumulate(map(len, self._in_order))]

    @property
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of images of each size."""
        return {size: len(part) for size, part in self.parts.items()}

    @cached_property
    def identity(self) -> str:
        """Return those of the parts."""
        return ", ".join(part.identity for part in self._in_order)

    def __len__(self) -> int:
        """Return the number of images."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return one sample.

        Raises:
            BadSampleError: it cannot be used.
        """
        part, place = self._find(index)
        return part[place]

    def draw(self, index: int, rng: Random) -> Sample:
        """Return one sample with what it leaves open drawn with ``rng``.

        Raises:
            BadSampleError: it cannot be used.
        """
        part, place = self._find(index)
        return part.draw(place, rng)

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each image, size by size."""
        return itertools.chain.from_iterable(part.captions() for part in self._in_order)

    def rows(self) -> Iterator[Row | BadSampleError]:
        """Yield every row, size by size."""
        return itertools.chain.from_iterable(part.rows() for part in self._in_order)

    def _find(self, index: int) -> tuple[IndexedDataset, int]:
        part = bisect.bisect_right(self._starts, index) - 1
        return self._in_order[part], index - self._starts[part]

    def at_most(self, count: int, seed: int = 0) -> "Buckets":
        """Return ``count`` images of all sizes together, of each its share."""
        if count >= len(self):
            return self
        parts: dict[Size, IndexedDataset] = {}
        seen = kept = 0
        for size, part in self.parts.items():
            seen += len(part)
            more = count * seen // len(self) - kept
            order = Permutation(len(part), "at most", seed)
            parts[size], kept = Subset(part, order, range(more)), kept + more
        return Buckets(parts, self.validation, self.opened)

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> tuple[IndexedDataset, Samples]:
        """Divide the images of each size, or return the data's own validation set.

        Raises:
            UserError: the fraction is out of range, or there are fewer than two images.
        """
        if self.validation is not None:
            return self, self.validation
        check_division(len(self), fraction)
        pairs = {size: divide(part, fraction, seed) for size, part in self.parts.items()}
        validation = Buckets({size: pair[1] for size, pair in pairs.items()})
        order = Permutation(len(validation), "mixed", seed)  # its first rows are of all sizes
        training = Buckets({size: pair[0] for size, pair in pairs.items()}, None, self.opened)
        return training, Subset(validation, order, range(len(validation)))


@dataclass(frozen=True)
class SomeRows:
    """Some rows of a table."""

    table: Table
    indices: Sequence[int]

    @property
    def identity(self) -> str:
        """Return that of the table, and which rows."""
        rows = hashlib.blake2b(np.asarray(self.indices).tobytes(), digest_size=16)
        return f"{self.table.identity} {rows.hexdigest()}"

    def __len__(self) -> int:
        """Return their number."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Row:
        """Return one row."""
        return self.table[int(self.indices[index])]

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each row."""
        for index in range(len(self)):
            try:
                yield self[index].captions
            except BadSampleError:
                yield ()


def bucketed(dataset: ImageDataset) -> Buckets:
    """Divide a data set by the sizes that its framing gives to images (``Framing.buckets``).

    Raises:
        UserError: too many images cannot be read, or the result cannot be kept.
    """
    sizes = dataset.framing.buckets
    parts: dict[Size, IndexedDataset] = {}
    for size, indices in zip(sizes, rows_of_sizes(dataset.table, sizes), strict=True):
        framing = replace(dataset.framing, size=size, buckets=())
        room = CACHE_BYTES * len(indices) // max(1, len(dataset))
        rows = SomeRows(dataset.table, indices)
        parts[size] = ImageDataset(rows, framing, None, room, dataset.files)
    return Buckets(parts, dataset.validation, dataset.opened)


def rows_of_sizes(table: Table, sizes: Sequence[Size]) -> list[Sequence[int]]:
    """Return the rows whose aspect ratio is nearest to that of each size.

    Images of a size that fewer than ``LEAST`` have get the nearest size that more have. An image
    that cannot be read gets the most frequent size; training reports that it is bad.

    Raises:
        UserError: too many images cannot be read, or the result cannot be kept.
    """
    digest = hashlib.blake2b(repr((FORMAT, table.identity, list(sizes))).encode(), digest_size=16)
    path = cache_folder("buckets") / f"{digest.hexdigest()}.npy"
    found = _stored(path, len(sizes), len(table))
    if found is None:
        log.warning("reading the headers of %d images for their sizes, once", len(table))
        found = _sorted(_look(table, sizes), len(sizes))
        _save(path, found)
    return _divided(found, len(sizes))


def _look(table: Table, sizes: Sequence[Size]) -> np.ndarray:
    """Return the number of each row's size."""

    def number(row: Row | None) -> int:
        if row is None:
            return UNREADABLE
        try:
            height, width = upright_size(row.image)
        except (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning):
            return UNREADABLE
        return sizes.index(nearest(sizes, width / height))

    found = bytearray()
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(table), READ_AT_ONCE):
            rows = range(start, min(start + READ_AT_ONCE, len(table)))
            found += bytes(readers.map(number, [_row(table, row) for row in rows]))
    numbers = np.frombuffer(found, np.uint8)
    unreadable = int((numbers == UNREADABLE).sum())
    if unreadable > BAD_SHARE * max(len(numbers), JUDGED_FROM) or unreadable == len(numbers):
        raise UserError(
            f"{unreadable} of {len(numbers)} images cannot be read for their sizes: is the data "
            "unavailable? python -m minimagen data check names what is wrong"
        )
    return _merged(numbers, sizes)


def _row(table: Table, index: int) -> Row | None:
    try:
        return table[index]
    except BadSampleError:
        return None


def _merged(numbers: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """Give each row a size that at least ``LEAST`` rows have, or all rows the same one."""
    counts = np.bincount(numbers[numbers != UNREADABLE], minlength=len(sizes))
    goes_to = np.arange(UNREADABLE + 1, dtype=np.uint8)
    goes_to[UNREADABLE] = counts.argmax()
    kept = [i for i in range(len(sizes)) if counts[i]]
    while len(kept) > 1 and counts[rarest := min(kept, key=counts.__getitem__)] < LEAST:
        kept.remove(rarest)
        height, width = sizes[rarest]
        other = sizes.index(nearest([sizes[i] for i in kept], width / height))
        counts[other] += counts[rarest]
        goes_to[goes_to == rarest] = other
    return goes_to[numbers]


def _sorted(numbers: np.ndarray, sizes: int) -> np.ndarray:
    """Return the number of rows of each size, then the rows in order of their size."""
    counts = np.bincount(numbers, minlength=sizes)
    return np.concatenate([counts, np.argsort(numbers, kind="stable")]).astype(np.int64)


def _divided(found: np.ndarray, sizes: int) -> list[Any]:
    ends = np.cumsum(found[:sizes])[:-1]
    return np.split(found[sizes:], ends)


def _save(path: Path, found: np.ndarray) -> None:
    """Write the result, all of it or nothing; other processes may be doing the same."""
    with replacing(path, shared=True) as part, part.open("wb") as file:
        np.save(file, found)


def _stored(path: Path, sizes: int, rows: int) -> np.ndarray | None:
    """Map the result of an earlier run; None where there is none, or it is damaged."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if found.dtype != np.int64 or found.shape != (sizes + rows,):
        return None
    whole = found[:sizes].sum() == rows and found.min() >= 0 and found[sizes:].max() < rows
    return found if whole else None
