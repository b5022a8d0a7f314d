"""Aspect buckets: images keep their aspect ratio, and all images of a batch have one size.

Each image gets the size whose aspect ratio is nearest to its own (as NovelAI trained), of the sizes
that several images have. The headers of all images are read for it, once: the result is kept on the
disk.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from minimagen.config import Size
from minimagen.config.sizes import nearest
from minimagen.data.bad_samples import BAD_SHARE, JUDGED_FROM
from minimagen.data.dataset import BadSampleError, IndexedDataset, Row, Table
from minimagen.data.images.dataset import CACHE_BYTES, ImageDataset, rows_of
from minimagen.data.images.decoding import upright_size
from minimagen.data.indexed import Buckets
from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing
from minimagen.storage.image_formats import DAMAGE

LEAST = 8  # images of a size; fewer would be trained on as a batch of copies
READERS = 8  # threads: most of the time goes by waiting for the disk
READ_AT_ONCE = 64  # headers; some tables read whole files with them
UNREADABLE = 255
FORMAT = 1  # of what stays on the disk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SomeRows:
    """Some rows of a table."""

    table: Table
    indices: np.ndarray

    @property
    def identity(self) -> str:
        """Return that of the table, and which rows."""
        rows = hashlib.blake2b(self.indices.tobytes(), digest_size=16)
        return f"{self.table.identity} {rows.hexdigest()}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Row:
        return self.table[int(self.indices[index])]

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each row."""
        return (row.captions if isinstance(row, Row) else () for row in rows_of(self))


def bucketed(dataset: ImageDataset, of_one_size: Sequence[Size] = ()) -> Buckets:
    """Divide a data set by the sizes that its framing gives to images (``Framing.buckets``).

    Args:
        dataset: What to divide.
        of_one_size: Divide by these sizes instead, but give every image the framing's one size: so
            the parts for training and validation are those of a training in these buckets.

    Raises:
        UserError: too many images cannot be read, or the result cannot be kept.
    """
    sizes = tuple(of_one_size) or dataset.framing.buckets
    parts: dict[Size, IndexedDataset] = {}
    for size, indices in zip(sizes, rows_of_sizes(dataset.table, sizes), strict=True):
        framing = dataset.framing
        if not of_one_size:
            framing = replace(framing, size=size, buckets=())
        limit = CACHE_BYTES * len(indices) // max(1, len(dataset))
        rows = SomeRows(dataset.table, indices)
        parts[size] = ImageDataset(rows, framing, None, limit, dataset.files)
    return Buckets(parts, dataset.validation, dataset.description)


def rows_of_sizes(table: Table, sizes: Sequence[Size]) -> list[np.ndarray]:
    """Return the indices of the rows whose aspect ratio is nearest to that of each size.

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
        numbers = _merged(_nearest_sizes(table, sizes), sizes)
        counts = np.bincount(numbers, minlength=len(sizes))
        found = np.concatenate([counts, np.argsort(numbers, kind="stable")]).astype(np.int64)
        # other processes may be doing the same
        with replacing(path, shared=True) as part, part.open("wb") as file:
            np.save(file, found)
    counts, rows = np.split(found, [len(sizes)])
    return np.split(rows, np.cumsum(counts)[:-1])


def _stored(path: Path, sizes: int, rows: int) -> np.ndarray | None:
    """Map an earlier result, the counts and then the rows; None where none is, or it is damaged."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if found.dtype != np.int64 or found.shape != (sizes + rows,):
        return None
    whole = found[:sizes].sum() == rows and found.min() >= 0 and found[sizes:].max() < rows
    return found if whole else None


def _nearest_sizes(table: Table, sizes: Sequence[Size]) -> np.ndarray:
    """Return the number of each row's size, or UNREADABLE."""

    def number(row: Row | BadSampleError) -> int:
        if isinstance(row, BadSampleError):
            return UNREADABLE
        try:
            height, width = upright_size(row.image)
        except (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning):
            return UNREADABLE
        return sizes.index(nearest(sizes, width / height))

    rows, found = rows_of(table), bytearray()
    with ThreadPoolExecutor(READERS) as readers:
        while some := list(islice(rows, READ_AT_ONCE)):
            found += bytes(readers.map(number, some))
    unreadable = found.count(UNREADABLE)
    if unreadable > BAD_SHARE * max(len(found), JUDGED_FROM) or unreadable == len(found):
        raise UserError(
            f"{unreadable} of {len(found)} images cannot be read for their sizes: is the data "
            "unavailable? python -m minimagen data check names what is wrong"
        )
    return np.frombuffer(found, np.uint8)


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
