"""metadata.jsonl, metadata.csv, metadata.parquet: rows of a table, as text says them.

Foreign files: whatever is in them, the result is rows or one UserError that says where.
"""

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from minimagen.data.sources.captions import caption_column, captions_of
from minimagen.data.sources.file_table import FileRow, size_of
from minimagen.data.sources.listing import printable
from minimagen.errors import UserError, did_you_mean

Columns = dict[str, Any]
Numbered = Iterator[tuple[str, Columns]]  # where it stands, and the row


def json_rows(file: Path) -> Numbered:
    """Read one JSON object per line."""
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{printable(file)}, line {number}"
                yield where, _json_object(line, where)


def _json_object(line: str, where: str) -> Columns:
    try:
        columns = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # endless digits, endless brackets
        raise UserError(f"{where} is not usable JSON: {error}") from error
    if not isinstance(columns, dict):
        raise UserError(f"{where} is not a JSON object like {{'file_name': ..., 'text': ...}}")
    if "\\ud" in line.lower() and not _is_text(columns):
        raise UserError(f"{where} has half of a surrogate pair, which is not text")
    return columns


def _is_text(columns: Columns) -> bool:
    try:
        json.dumps(columns, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def csv_rows(file: Path, delimiters: str = ",;\t") -> Numbered:
    """Read values under a line of column names, between which one of ``delimiters`` stands."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        names = lines.readline()
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=max(delimiters, key=names.count))
        try:
            for columns in reader:
                where = f"{printable(file)}, line {reader.line_num}"
                if None in columns or None in columns.values():
                    raise UserError(f"{where} has more or fewer values than there are columns")
                yield where, dict(columns)
        except csv.Error as error:
            raise UserError(
                f"{printable(file)}, line {reader.line_num} is not CSV: {error}"
            ) from error


def parquet_rows(file: Path) -> Numbered:
    """Read a parquet file, a few thousand rows at a time."""
    import pyarrow.parquet as pq

    with _readable(file), file.open("rb") as opened, pq.ParquetFile(opened) as table:
        batches = table.iter_batches(batch_size=4096)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        for number, columns in enumerate(rows, 1):
            yield f"{printable(file)}, row {number}", columns


def parquet_schema(file: Path) -> Any:
    """Return a parquet file's columns as a ``pyarrow.Schema``.

    Raises:
        UserError: it is not a parquet file.
    """
    import pyarrow.parquet as pq

    with _readable(file), file.open("rb") as opened:  # a path would have to be UTF-8
        schema = pq.read_schema(opened)
        _ = schema.names  # a name that is no text is an error here
        return schema


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())  # Arrow's own has several lines
        raise UserError(f"{printable(file)} is not a readable parquet file: {reason}") from error


READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": json_rows,
    ".csv": csv_rows,
    ".tsv": partial(csv_rows, delimiters="\t"),
    ".parquet": parquet_rows,
}


def read_table(file: Path) -> Numbered:
    """Read a table's rows, each with the place where it stands.

    Raises:
        UserError: the file is missing, not UTF-8, or not what its suffix says.
    """
    if file.suffix.lower() not in READERS:
        raise UserError(f"{printable(file)} is not a table: {', '.join(READERS)} are read")
    try:
        yield from READERS[file.suffix.lower()](file)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(file)} is not UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{printable(file)} cannot be read: {error.strerror}") from error


def metadata_rows(metadata: Path, column: str) -> Iterator[FileRow]:
    """Read names of images and captions; a row may have no caption, an image may be missing.

    Args:
        metadata: has the columns file_name and ``column``; other text becomes attributes.
        column: of the caption: text, or a list of texts that are variants.

    Raises:
        UserError: a column is missing, or a row is not usable.
    """
    for where, columns in read_table(metadata):
        file = _file_name(columns, where)
        name = caption_column(columns, column, where)
        captions = captions_of(columns[name])
        if captions is None:
            raise UserError(f"{where}: {name!r} is neither text nor a list of texts")
        texts = {k: v for k, v in columns.items() if isinstance(v, str) and v}
        attributes = {k: v for k, v in texts.items() if k not in ("file_name", name)}
        yield FileRow(file, captions, attributes, size_of(metadata.parent / file))


def _file_name(columns: Columns, where: str) -> str:
    value = columns.get("file_name")
    if not isinstance(value, str):
        hint = did_you_mean("file_name", columns)
        raise UserError(f"{where} has no text 'file_name' among {', '.join(columns)}{hint}")
    if "\0" in value:
        raise UserError(f"{where}: file_name holds a zero byte")
    return value
