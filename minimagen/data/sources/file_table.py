"""A list of picture files with captions, kept on disk and memory-mapped.

The list is read once, whatever it was written in, and stored as an Arrow file in the cache folder.
A million captions then cost no more memory than ten, and the next start reads nothing.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from minimagen.data.dataset import Row
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing

SCHEMA = pa.schema(
    [("file", pa.string()), ("captions", pa.list_(pa.string())), ("attributes", pa.string())]
)
WRITTEN_AT_ONCE = 4096  # rows
FORMAT = 2  # of the file; another number, and older ones are not found


class FileRow(NamedTuple):
    """One picture file, relative to the table's folder, and what is said about it."""

    file: str
    captions: tuple[str, ...]
    attributes: dict[str, str]


class FileTable:
    """Rows of a stored list; the pictures are files under one folder."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Map the stored list at ``path``, whose files are relative to ``folder``."""
        self.path, self.folder = path, folder
        self._rows = _mapped(path)
        self._columns = [self._rows.column(name) for name in SCHEMA.names]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._rows.num_rows

    def __getitem__(self, index: int) -> Row:
        """Return one row."""
        file, captions, attributes = (column[index].as_py() for column in self._columns)
        told = json.loads(attributes) if attributes else {}
        return Row(self.folder / file, tuple(captions), str(self.folder / file), told)

    @property
    def identity(self) -> str:
        """Return what is another one whenever the rows are."""
        return self.path.stem

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Go through the captions of all pictures."""
        return (tuple(cell.as_py()) for chunk in self._rows["captions"].chunks for cell in chunk)

    def has_captions(self) -> bool:
        """Tell whether any row has a caption."""
        return bool(pc.max(pc.list_value_length(self._rows["captions"])).as_py())

    def __reduce__(self) -> tuple[type["FileTable"], tuple[Path, Path]]:
        """Travel to another process as two paths, not as a copy."""
        return FileTable, (self.path, self.folder)


def file_table(folder: Path, key: Any, rows: Callable[[], Iterable[FileRow]]) -> FileTable:
    """Return the stored list that ``key`` names, after writing it if it is not there.

    Args:
        folder: what the files are relative to.
        key: changes whenever the rows would.
        rows: reads them; those of one file are merged, and their captions become variants.

    Raises:
        UserError: from ``rows``, or the cache folder cannot be written.
    """
    digest = hashlib.blake2b(repr((FORMAT, str(folder), key)).encode(), digest_size=16)
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
    remaining = _merged(rows)
    with (
        replacing(path, shared=True) as part,
        pa.OSFile(str(part), "wb") as file,
        pa.ipc.new_file(file, SCHEMA) as writer,
    ):
        while some := list(itertools.islice(remaining, WRITTEN_AT_ONCE)):
            writer.write_batch(_batch(some))


def _batch(rows: Sequence[FileRow]) -> pa.RecordBatch:
    columns = (
        [row.file for row in rows],
        [row.captions for row in rows],
        [json.dumps(row.attributes) if row.attributes else "" for row in rows],
    )
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=SCHEMA)


def _merged(rows: Iterable[FileRow]) -> Iterator[FileRow]:
    """Make one row of neighbouring rows of the same file."""
    for file, group in itertools.groupby(rows, key=lambda row: row.file):
        same = list(group)
        captions = dict.fromkeys(caption for row in same for caption in row.captions)
        yield FileRow(file, tuple(captions), same[0].attributes)


def _sorted(table: pa.Table) -> Iterator[FileRow]:
    """Read the rows in order of file, and those of one file in the order they had."""
    for batch in table.take(pc.sort_indices(table["file"])).to_batches(WRITTEN_AT_ONCE):
        for row in batch.to_pylist():
            attributes = json.loads(row["attributes"] or "{}")
            yield FileRow(row["file"], tuple(row["captions"]), attributes)
