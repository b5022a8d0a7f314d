"""A list of image files with captions, kept on disk and memory-mapped.

The list is read once, whatever it was written in, and stored as an Arrow file in the cache folder.
A million captions then cost no more memory than ten, and the next start reads nothing.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from minimagen.data.dataset import Row
from minimagen.data.sources.listing import printable
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing

SCHEMA = pa.schema(
    {
        "file": pa.binary(),
        "captions": pa.list_(pa.string()),
        "more": pa.string(),
        "size": pa.int64(),
    }
)
WRITTEN_AT_ONCE = 4096  # rows
FORMAT = 3  # of the file; another number, and older ones are not found


class FileRow(NamedTuple):
    """One image file, relative to the table's folder, and what is said about it."""

    file: str
    captions: tuple[str, ...]
    attributes: dict[str, str]
    size: int  # in bytes; -1: no such file


class FileTable:
    """Rows of a stored list; the images are files under one folder."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Map the stored list at ``path``, whose files are relative to ``folder``."""
        self.path, self.folder = path, folder
        self._rows = _mapped(path)
        self._columns = [self._rows.column(name) for name in SCHEMA.names]

    def __len__(self) -> int:
        """Return the number of images."""
        return self._rows.num_rows

    def __getitem__(self, index: int) -> Row:
        """Return one row."""
        name, captions, more, _ = (column[index].as_py() for column in self._columns)
        file = self.folder / os.fsdecode(name)
        return Row(file, tuple(captions), printable(file), json.loads(more) if more else {})

    @cached_property
    def identity(self) -> str:
        """What changes whenever a name, caption or file size does, and not with the folder."""
        digest = hashlib.blake2b(digest_size=16)
        for chunk in itertools.chain.from_iterable(column.chunks for column in self._columns):
            for buffer in filter(None, chunk.buffers()):
                digest.update(buffer)
        return digest.hexdigest()

    @property
    def first_file(self) -> str:
        """The file of the first row."""
        return os.fsdecode(self._columns[0][0].as_py())

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of all images."""
        return (tuple(cell.as_py()) for chunk in self._rows["captions"].chunks for cell in chunk)

    def has_captions(self) -> bool:
        """Return whether any row has a caption."""
        return bool(pc.max(pc.list_value_length(self._rows["captions"])).as_py())

    def has_files(self) -> bool:
        """Return whether any row's image was there when the list was read."""
        largest = pc.max(self._rows["size"]).as_py()
        return largest is not None and largest >= 0

    def __reduce__(self) -> tuple[type["FileTable"], tuple[Path, Path]]:
        """Travel to another process as two paths, not as a copy."""
        return FileTable, (self.path, self.folder)


def size_of(file: Path) -> int:
    """Return the bytes of a file, -1 where there is none."""
    try:
        stat = file.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return -1
    return stat.st_size if S_ISREG(stat.st_mode) else -1


def file_table(folder: Path, key: Any, rows: Callable[[], Iterable[FileRow]]) -> FileTable:
    """Return the stored list that ``key`` names, after writing it if it is not there.

    Args:
        folder: what the files are relative to.
        key: changes whenever the rows would.
        rows: reads them; those of one file are merged, and their captions become variants.

    Raises:
        UserError: from ``rows``, or the cache folder cannot be written.
    """
    digest = hashlib.blake2b(repr((FORMAT, os.fsencode(folder), key)).encode(), digest_size=16)
    path = cache_folder("tables") / f"{digest.hexdigest()}.arrow"
    if not path.is_file():
        _store(path, rows())
        table = _mapped(path)
        if pc.count_distinct(table["file"]).as_py() < table.num_rows:
            _store(path, _sorted(table))
        del table
        pa.default_memory_pool().release_unused()
    return FileTable(path, folder)


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _store(path: Path, rows: Iterable[FileRow]) -> None:
    """Write the list, all of it or nothing; processes that do so at once do not disturb another."""
    remaining = map(_encoded, _merged(rows))
    with (
        replacing(path, shared=True) as part,
        pa.OSFile(str(part), "wb") as file,
        pa.ipc.new_file(file, SCHEMA) as writer,
    ):
        while some := list(itertools.islice(remaining, WRITTEN_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, SCHEMA))


def _encoded(row: FileRow) -> dict[str, Any]:
    more = json.dumps(row.attributes) if row.attributes else ""
    return {"file": os.fsencode(row.file), "captions": row.captions, "more": more, "size": row.size}


def _merged(rows: Iterable[FileRow]) -> Iterator[FileRow]:
    """Make one row of neighboring rows of the same file."""
    for _, group in itertools.groupby(rows, key=lambda row: row.file):
        first, *others = group
        captions = dict.fromkeys(itertools.chain(first.captions, *(row.captions for row in others)))
        yield first._replace(captions=tuple(captions))


def _sorted(table: pa.Table) -> Iterator[FileRow]:
    """Read the rows in order of file, and those of one file in the order they had."""
    for batch in table.take(pc.sort_indices(table["file"])).to_batches(WRITTEN_AT_ONCE):
        for row in batch.to_pylist():
            attributes = json.loads(row["more"] or "{}")
            yield FileRow(os.fsdecode(row["file"]), tuple(row["captions"]), attributes, row["size"])
