"""Aspect buckets: pictures keep their shape, and every batch has pictures of one size.

Each picture gets the size whose aspect ratio is nearest to its own (as NovelAI trained), of the
sizes that several pictures have. Which one that is says its head; all heads are read once, and what
was found stays on the disk.
"""

import bisect
import hashlib
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from minimagen.config import Size
from minimagen.config.sizes import nearest
from minimagen.data.bad_samples import BAD_SHARE, JUDGED_FROM
from minimagen.data.dataset import BadSampleError, CaptionedDataset, draw
from minimagen.data.images.dataset import CACHE_BYTES, PictureDataset, PictureTable, Row
from minimagen.data.images.decoding import DAMAGE, upright_size
from minimagen.errors import UserError
from minimagen.sample import Sample
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import cannot_write

LEAST = 8  # pictures of a size; fewer would be trained on as a batch of copies
READERS = 8  # threads: most of the time goes by waiting for the disk
READ_AT_ONCE = 64  # heads; some tables hand over whole files with them
UNREADABLE = 255
FORMAT = 1  # of what stays on the disk

log = logging.getLogger(__name__)


class Buckets:
    """Data sets whose samples have one size each, one after the other.

    Args:
        parts: the data set of each size; empty ones are left out.
        validation: the data's own validation set, if it has one; its samples may have any size.
    """

    def __init__(
        self, parts: Mapping[Size, CaptionedDataset], validation: PictureDataset | None = None
    ) -> None:
        self.parts = {size: part for size, part in parts.items() if len(part)}
        self.validation = validation
        self._in_order = list(self.parts.values())
        self._starts = [0, *itertools.accumulate(map(len, self._in_order))]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of pictures of each size."""
        return {f"{height} x {width}": len(part) for (height, width), part in self.parts.items()}

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return one sample.

        Raises:
            BadSampleError: it cannot be used.
        """
        part, place = self._find(index)
        return self._in_order[part][place]

    def draw(self, index: int, rng: Random) -> Sample:
        """Return one sample with what it leaves open drawn with ``rng``.

        Raises:
            BadSampleError: it cannot be used.
        """
        part, place = self._find(index)
        return draw(self._in_order[part], place, rng)

    def after(self, index: int) -> int:
        """Return the index of the next sample of the same size; after the last comes the first."""
        part, place = self._find(index)
        return self._starts[part] + (place + 1) % len(self._in_order[part])

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
        UserError: too many pictures cannot be read, or what was found cannot be kept.
    """
    sizes = dataset.framing.buckets
    parts: dict[Size, CaptionedDataset] = {}
    for size, indices in zip(sizes, rows_of_sizes(dataset.table, sizes), strict=True):
        framing = replace(dataset.framing, size=size, buckets=())
        room = CACHE_BYTES * len(indices) // max(1, len(dataset))
        rows = Rows(dataset.table, indices)
        parts[size] = PictureDataset(rows, framing, None, room, dataset.files)
    return Buckets(parts, dataset.validation)


def rows_of_sizes(table: PictureTable, sizes: Sequence[Size]) -> list[Sequence[int]]:
    """Return the rows whose aspect ratio is nearest to that of each size.

    A size that fewer than ``LEAST`` pictures have goes without; they get the nearest other one.
    A picture that cannot be read gets the most frequent size; training will say that it is bad.

    Raises:
        UserError: too many pictures cannot be read, or what was found cannot be kept.
    """
    identity = getattr(table, "identity", None)
    if identity is None:  # a list in memory
        return _divided(_sorted(_look(table, sizes), len(sizes)), len(sizes))
    digest = hashlib.blake2b(repr((FORMAT, identity, list(sizes))).encode(), digest_size=16)
    path = cache_folder("buckets") / f"{digest.hexdigest()}.npy"
    found = _stored(path, len(sizes), len(table))
    if found is None:
        log.warning("reading the heads of %d pictures for their shapes, once", len(table))
        found = _sorted(_look(table, sizes), len(sizes))
        _save(path, found)
    return _divided(found, len(sizes))


def _look(table: PictureTable, sizes: Sequence[Size]) -> np.ndarray:
    """Return the number of each row's size."""

    def number(row: Row | None) -> int:
        if row is None:
            return UNREADABLE
        try:
            height, width = upright_size(row.picture)
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
            f"{unreadable} of {len(numbers)} pictures cannot be read for their shapes: is the data "
            "away? python -m minimagen data check tells what is wrong"
        )
    return _merged(numbers, sizes)


def _row(table: PictureTable, index: int) -> Row | None:
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
