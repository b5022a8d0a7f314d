"""Image files with captions: in .txt files beside them, or in one metadata file.

The list is read once and stored as an Arrow file in the cache folder, which is memory-mapped: a
million captions then cost no more memory than ten, and the next start reads nothing.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from operator import not_
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from minimagen.data.dataset import Row
from minimagen.data.sources.listing import IMAGES, Listing, printable
from minimagen.data.sources.table import Numbered, captions_of, read_table, row_captions
from minimagen.data.where import SIDES, Where
from minimagen.errors import UserError, did_you_mean
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import read_json, read_lines, replacing, sync, write_json

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
LOOKED_AT = 10  # rows of a metadata file that show whether its images are files
SCHEMA = pa.schema(
    {
        "file": pa.binary(),  # relative to the table's folder
        "captions": pa.list_(pa.string()),
        "more": pa.string(),  # the attributes as JSON
        "size": pa.int64(),  # in bytes; -1: no such file
    }
)
WRITTEN_AT_ONCE = 4096  # rows
FORMAT = 4  # of the file; another number, and older ones are not found

FileRow = dict[str, Any]  # by the names of SCHEMA


def file_row(
    folder: Path, file: str, captions: Iterable[str], attributes: Mapping[str, str]
) -> FileRow:
    """Return the row of an image file."""
    more = json.dumps(attributes) if attributes else ""
    size = size_of(folder / file)
    return {"file": os.fsencode(file), "captions": list(captions), "more": more, "size": size}


class FileTable:
    """Rows of the stored list at ``path``; the images are files under one folder."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self._rows = _mapped(path)
        self._columns = [self._rows.column(name) for name in SCHEMA.names]

    def __len__(self) -> int:
        return self._rows.num_rows

    def __getitem__(self, index: int) -> Row:
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

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of all images."""
        return (tuple(cell.as_py()) for chunk in self._rows["captions"].chunks for cell in chunk)

    def has_files(self) -> bool:
        """Return whether any row's image was there when the list was read."""
        return bool(pc.any(pc.greater_equal(self._rows["size"], 0)).as_py())

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


def file_table(
    folder: Path, key: Any, rows: Callable[[], Iterable[FileRow]], absent: Sequence[str] = ()
) -> FileTable:
    """Return the stored list that ``key`` names, after writing it if it is not there.

    It is written again where a file that was missing then has come.

    Args:
        folder: what the files are relative to.
        key: changes whenever the rows would.
        rows: reads them; those of one file are merged, and their captions become variants.
        absent: filled by ``rows`` with files that are left out because they are missing.
    """
    digest = hashlib.blake2b(repr((FORMAT, os.fsencode(folder), key)).encode(), digest_size=16)
    path = cache_folder("tables") / f"{digest.hexdigest()}.arrow"
    if not _is_stored(path, folder):
        _store(path, rows())
        write_json(_absent(path), list(absent), shared=True)
        pa.default_memory_pool().release_unused()
    return FileTable(path, folder)


def _is_stored(path: Path, folder: Path) -> bool:
    """Return whether a list is there, whole, and no file that it misses has come."""
    try:
        stored = _mapped(path)
        absent = read_json(_absent(path)) if _absent(path).is_file() else []
    except (OSError, pa.ArrowInvalid, UserError):  # not there, or what a power cut left
        return False
    missing = stored.filter(pc.less(stored["size"], 0))["file"]
    names = [os.fsdecode(name.as_py()) for name in missing]
    return not any(size_of(folder / name) >= 0 for name in [*names, *absent])


def _absent(path: Path) -> Path:
    return path.with_suffix(".absent.json")


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _store(path: Path, rows: Iterable[FileRow]) -> None:
    """Write the list, all of it or nothing; processes that do so at once do not disturb another."""
    with replacing(path, shared=True) as part:
        _write(part, rows)
        if (by_file := _by_file(part)) is not None:
            _write(part, itertools.chain.from_iterable(some.to_pylist() for some in by_file))
        sync(part)  # a power cut would leave parts of it empty


def _by_file(path: Path) -> list[pa.RecordBatch] | None:
    """Return the rows in the order of their files, None where no file has several.

    Nothing maps the file afterwards: Windows would not let it be replaced.
    """
    table = _mapped(path)
    if pc.count_distinct(table["file"]).as_py() == table.num_rows:
        return None
    return list(table.take(pc.sort_indices(table["file"])).to_batches(WRITTEN_AT_ONCE))


def _write(path: Path, rows: Iterable[FileRow]) -> None:
    """Write rows, neighbors of the same file as one."""
    remaining = _merged(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while some := list(itertools.islice(remaining, WRITTEN_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, SCHEMA))


def _merged(rows: Iterable[FileRow]) -> Iterator[FileRow]:
    """Make one row of neighboring rows of the same file."""
    for _, group in itertools.groupby(rows, key=lambda row: row["file"]):
        first, *others = group
        captions = itertools.chain(first["captions"], *(row["captions"] for row in others))
        yield first | {"captions": list(dict.fromkeys(captions))}


def find_metadata(folder: Path) -> Path | None:
    """Return a folder's metadata file, None where there is none."""
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise UserError(f"{printable(folder)} holds {names}: keep one, or give the file itself")
    return found[0] if found else None


def metadata_of_files(folder: Path) -> Path | None:
    """Return a folder's metadata if one of the first images that it names is a file.

    They may be in an archive beside it instead.
    """
    if (metadata := find_metadata(folder)) is None:
        return None
    some = itertools.islice(read_table(metadata), LOOKED_AT)
    names = [columns.get("file_name") for _, columns in some]
    named = any(isinstance(name, str) and size_of(folder / name) >= 0 for name in names)
    return metadata if named else None


def image_table(part: Listing, caption_column: str, where: Where | None = None) -> FileTable:
    """Open the images of a folder, with captions from its metadata or from .txt files."""
    texts = text_files(part)
    metadata = (metadata_of_files if texts else find_metadata)(part.folder)
    if metadata is not None:
        part.log_left_out(part.files)
        return metadata_table(metadata, caption_column, where)
    images = part.with_suffix(*IMAGES)
    part.log_left_out([*images, *texts.values()])
    if not images:
        raise UserError(f"{printable(part.folder)} holds no images ({' '.join(IMAGES)})")
    return _text_file_table(part.folder, images, texts, where)


def metadata_table(metadata: Path, caption_column: str, where: Where | None = None) -> FileTable:
    """Open the images that a metadata file names, with their captions.

    Args:
        metadata: jsonl, csv, tsv or parquet, of any name, with the columns file_name (relative to
            it) and ``caption_column``; other text columns become attributes.
        caption_column: its name; a list of captions means variants.
        where: which rows are used.
    """
    key = (os.fsencode(metadata), caption_column, *_stamp(metadata), *_texts(where))
    folder = metadata.parent.absolute()
    absent: list[str] = []
    read = partial(metadata_rows, metadata, caption_column, where, absent)
    table = file_table(folder, key, read, absent)
    _check_any(table, where)
    if not table.has_files():
        name = table[0].name if len(table) else "no row"
        raise UserError(
            f"no image that {printable(metadata)} names is a file (the first: {name}): file_name "
            "is relative to the folder of the metadata"
        )
    return _captioned(table)


def metadata_rows(
    metadata: Path,
    caption_column: str,
    where: Where | None = None,
    absent: list[str] | None = None,
) -> Iterator[FileRow]:
    """Read what `metadata_table` stores; a row may have no caption, an image may be missing.

    Files that are missing where their size is asked for are left out; ``absent`` gets them.
    """
    for place, columns in fitting(read_table(metadata), metadata.parent, where, absent):
        file = columns.get("file_name")
        if not isinstance(file, str):
            hint = did_you_mean("file_name", columns)
            names = " ".join(", ".join(columns).split())  # names may hold ends of lines
            raise UserError(f"{place} has no text 'file_name' among {names}{hint}")
        if "\0" in file:
            raise UserError(f"{place}: file_name holds a zero byte")
        name, captions = row_captions(columns, caption_column, place)
        others = columns.keys() - {"file_name", name}
        texts = {k: v for k, v in columns.items() if k in others and isinstance(v, str) and v}
        yield file_row(metadata.parent, file, captions, texts)


def text_files(listing: Listing) -> dict[str, str]:
    """Return the .txt file of each image that has one: of the same name but for the suffix."""
    texts = {os.path.splitext(file)[0]: file for file in listing.with_suffix(".txt")}
    texts |= {file[:-4]: file for file in listing.files if file.endswith(".txt")}  # before .TXT
    images = ((file, texts.get(os.path.splitext(file)[0])) for file in listing.with_suffix(*IMAGES))
    return {file: text for file, text in images if text is not None}


def _text_file_table(
    folder: Path, images: list[str], texts: dict[str, str], where: Where | None
) -> FileTable:
    """Open images whose captions are the lines of a .txt file of the same name."""
    stamps = [[_stamp(folder / file) for file in (i, texts.get(i)) if file] for i in images]
    key = (images, stamps, *_texts(where))

    def read() -> Numbered:
        for image in images:
            lines = read_lines(folder / texts[image]) if image in texts else []
            captions = captions_of(lines) or ()
            yield image, {"file_name": image, "text": " ".join(captions), "captions": captions}

    def rows() -> Iterator[FileRow]:
        for image, columns in fitting(read(), folder, where):
            yield file_row(folder, image, columns["captions"], {})

    table = file_table(folder, key, rows)
    _check_any(table, where)
    return _captioned(table)


def fitting(
    rows: Numbered, folder: Path, where: Where | None, absent: list[str] | None = None
) -> Numbered:
    """Yield those rows of a table of files that fit a condition; all without one."""
    if where is None:
        yield from rows
        return
    known = dict[str, None]()
    while some := list(itertools.islice(rows, WRITTEN_AT_ONCE)):
        columns = [values for _, values in some]
        known |= dict.fromkeys(itertools.chain.from_iterable(columns))
        names = [values.get("file_name") for values in columns]
        files = [folder / name if isinstance(name, str) else None for name in names]
        kept = where.kept(columns, files)
        if absent is not None and where.names & {*SIDES}:
            left_out = itertools.compress(names, map(not_, kept))
            absent += [n for n in left_out if isinstance(n, str) and size_of(folder / n) < 0]
        yield from itertools.compress(some, kept)
    if known:
        where.check(list(known))  # at the end: a column may begin late


def _texts(where: Where | None) -> tuple[str, ...]:
    return () if where is None else (where.text,)


def _check_any(table: FileTable, where: Where | None) -> None:
    if where is not None and not len(table):
        raise UserError(f"no image of {printable(table.folder)} fits `where` {where.text!r}")


def _stamp(file: Path) -> tuple[int, int]:
    """Return what changes when a file does."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _captioned(table: FileTable) -> FileTable:
    """Return the table if any of its images has a caption; training counts those without."""
    if not any(table.captions()):
        raise UserError(
            f"{printable(table.folder)} holds no captions: it needs a metadata.jsonl with "
            "file_name and text on each line, or a .txt file beside each image"
        )
    return table
