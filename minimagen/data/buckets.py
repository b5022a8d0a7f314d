"""Aspect buckets: pictures keep their shape, and every batch has pictures of one size.

Each picture gets the size whose aspect ratio is nearest to its own (as NovelAI trained). Which one
that is says its head; all heads are read once, and what was found stays on the disk.
"""

import bisect
import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from minimagen.config import Size
from minimagen.data.pictures import CACHE_BYTES, PictureDataset, PictureTable, Row
from minimagen.data.sample import BadSampleError, CaptionedDataset, Sample, draw
from minimagen.data.transforms import DAMAGE, upright_size
from minimagen.sizes import nearest
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import cannot_write

READERS = 8  # threads: most of the time goes by waiting for the disk
READ_AT_ONCE = 4096  # heads
FORMAT = 1  # of what stays on the disk

log = logging.getLogger(__name__)


class Buckets:
    """Data sets whose samples have one size each, one after the other.

    Args:
        parts: the data sets; empty ones are left out.
        validation: the data's own validation set, if it has one; its samples may have any size.
    """

    def __init__(
        self, parts: Sequence[CaptionedDataset], validation: PictureDataset | None = None
    ) -> None:
        self.parts = tuple(part for part in parts if len(part))
        self.validation = validation
        self._starts = [0, *itertools.accumulate(map(len, self.parts))]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return one sample.

        Raises:
            BadSampleError: it cannot be used.
        """
        part, place = self._find(index)
        return self.parts[part][place]

    def draw(self, index: int, rng: Random) -> Sample:
        """Return one sample with what it leaves open drawn with ``rng``.

        Raises:
            BadSampleError: it cannot be used.
        """
        part, place = self._find(index)
        return draw(self.parts[part], place, rng)

    def after(self, index: int) -> int:
        """Return the index of the next sample of the same size; after the last comes the first."""
        part, place = self._find(index)
        return self._starts[part] + (place + 1) % len(self.parts[part])

    def _find(self, index: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]


@dataclass(frozen=True)
class Rows:
    """Some rows of a table."""

    table: PictureTable
    indices: Sequence[int]

    def __len__(self) -> int:
        """Return their number."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Row:
        """Return one row."""
        return self.table[int(self.indices[index])]


def bucketed(dataset: PictureDataset) -> Buckets:
    """Divide a data set by the sizes that its framing gives to pictures (``Framing.buckets``).

    Raises:
        UserError: what was found cannot be kept in the cache folder.
    """
    sizes = dataset.framing.buckets
    members = rows_of_sizes(dataset.table, sizes)
    parts = []
    for size, indices in zip(sizes, members, strict=True):
        room = CACHE_BYTES * len(indices) // max(1, len(dataset))
        framing = replace(dataset.framing, size=size, buckets=())
        parts.append(PictureDataset(Rows(dataset.table, indices), framing, None, room))
    return Buckets(parts, dataset.validation)


def rows_of_sizes(table: PictureTable, sizes: Sequence[Size]) -> list[Sequence[int]]:
    """Return the rows whose aspect ratio is nearest to that of each size.

    A picture that cannot be read counts as square; training will say that it is bad.
    """
    identity = getattr(table, "identity", None)
    if identity is None:  # a list in memory
        return _divided(_sorted(_look(table, sizes)[0], len(sizes)), len(sizes))
    digest = hashlib.blake2b(repr((FORMAT, identity, list(sizes))).encode(), digest_size=16)
    path = cache_folder("buckets") / f"{digest.hexdigest()}.npy"
    stored = _stored(path, len(sizes), len(table))
    if stored is not None:
        return _divided(stored, len(sizes))
    log.warning("reading the heads of %d pictures for their shapes, once", len(table))
    numbers, all_there = _look(table, sizes)
    found = _sorted(numbers, len(sizes))
    if all_there:
        _save(path, found)
    return _divided(found, len(sizes))


def _look(table: PictureTable, sizes: Sequence[Size]) -> tuple[bytearray, bool]:
    """Return the number of each row's size, and whether every picture was there to be read."""
    found, all_there = bytearray(), True
    square = sizes.index(nearest(sizes, 1.0))

    def number(row: Row | None) -> tuple[int, bool]:
        if row is None:
            return square, True
        try:
            height, width = upright_size(row.picture)
        except (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            return square, getattr(error, "errno", None) is None
        return sizes.index(nearest(sizes, width / height)), True

    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(table), READ_AT_ONCE):
            stop = min(start + READ_AT_ONCE, len(table))
            rows = [_row(table, index) for index in range(start, stop)]
            for which, there in readers.map(number, rows):
                found.append(which)
                all_there &= there
    return found, all_there


def _row(table: PictureTable, index: int) -> Row | None:
    try:
        return table[index]
    except BadSampleError:
        return None


def _sorted(found: bytearray, sizes: int) -> np.ndarray:
    """Return the number of rows of each size, then the rows in order of their size."""
    numbers = np.frombuffer(found, np.uint8)
    counts = np.bincount(numbers, minlength=sizes)
    return np.concatenate([counts, np.argsort(numbers, kind="stable")]).astype(np.int64)


def _divided(found: np.ndarray, sizes: int) -> list[Any]:
    ends = np.cumsum(found[:sizes])[:-1]
    return np.split(found[sizes:], ends)


def _save(path: Path, found: np.ndarray) -> None:
    """Write what was found, all of it or nothing; others may be doing the same."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.save(file, found)
        part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def _stored(path: Path, sizes: int, rows: int) -> np.ndarray | None:
    """Map what an earlier run found; None where there is nothing, or it is damaged."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if found.dtype != np.int64 or found.shape != (sizes + rows,):
        return None
    whole = found[:sizes].sum() == rows and found.min() >= 0 and found[sizes:].max() < rows
    return found if whole else None
