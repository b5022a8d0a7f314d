"""Rows of tables (jsonl, csv, tsv, parquet), and what a caption is in any of them.

Foreign files: whatever is in them, the result is rows or one UserError that says where.
"""

import csv
import itertools
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from minimagen.config.data import CAPTION_COLUMN
from minimagen.data.sources.listing import printable
from minimagen.errors import UserError, did_you_mean

ALSO = ("caption", "captions")  # taken where the default column is not there

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
        if "\\ud" in line.lower():
            json.dumps(columns, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg}, column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where} has half of a surrogate pair, which is not text") from error
    except (ValueError, RecursionError) as error:  # endless digits, endless brackets
        raise UserError(f"{where} is not usable JSON: {error}") from error
    if not isinstance(columns, dict):
        raise UserError(f"{where} is not a JSON object like {{'file_name': ..., 'text': ...}}")
    return columns


def csv_rows(file: Path, delimiters: str = ",;\t", **options: Any) -> Numbered:
    """Read values under a line of column names, between which one of ``delimiters`` stands."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        names = lines.readline()
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=max(delimiters, key=names.count), **options)
        try:
            for columns in reader:
                where = f"{printable(file)}, line {reader.line_num}"
                if None in columns or None in columns.values():
                    raise UserError(f"{where} has more or fewer values than there are columns")
                yield where, dict(columns)
        except csv.Error as error:
            where = f"{printable(file)}, line {reader.line_num}"
            raise UserError(f"{where} is not CSV: {error}") from error


def parquet_rows(file: Path) -> Numbered:
    """Read a parquet file, a few thousand rows at a time."""
    with _readable(file), file.open("rb") as opened, pq.ParquetFile(opened) as table:
        batches = table.iter_batches(batch_size=4096)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        for number, columns in enumerate(rows, 1):
            yield f"{printable(file)}, row {number}", columns


def parquet_schema(file: Path) -> pa.Schema:
    """Return a parquet file's columns."""
    with _readable(file), file.open("rb") as opened:  # a path would have to be UTF-8
        schema = pq.read_schema(opened)
        _ = schema.names  # a name that is no text is an error here
        return schema


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise UserError(f"{printable(file)} is not a readable parquet file: {reason}") from error


def one_line(error: BaseException) -> str:
    """Return what went wrong in one line, from the error that came first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": json_rows,
    ".csv": csv_rows,
    ".tsv": partial(csv_rows, delimiters="\t"),
    ".parquet": parquet_rows,
}


def read_table(file: Path, reader: Callable[[Path], Numbered] | None = None) -> Numbered:
    """Read a table's rows, each with the place where it stands."""
    reader = reader or READERS.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{printable(file)} is not a table: {', '.join(READERS)} are read")
    try:
        yield from reader(file)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(file)} is not UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{printable(file)} cannot be read: {error.strerror}") from error


def caption_column(columns: Collection[str], wanted: str, where: str) -> str:
    """Return the name of the caption column; the default one stands for `ALSO` too."""
    if wanted in columns:
        return wanted
    others = [name for name in ALSO if name in columns]
    if wanted == CAPTION_COLUMN and others:
        return others[0]
    names = ", ".join(map(str, columns))
    raise UserError(
        f"{where} has no column {wanted!r} among {names}{did_you_mean(wanted, columns)} "
        "(`caption_column` names it)"
    )


def captions_of(value: Any) -> tuple[str, ...] | None:
    """Return a cell's captions without blank ones, each in one line; None if it holds no text."""
    if value is None or value != value:  # not a number: an empty cell, as pandas writes it
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return None
    return tuple(" ".join(text.split()) for text in texts if text.strip())


def row_captions(columns: Columns, wanted: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Return the caption column's name and a row's captions, of which there may be none."""
    name = caption_column(columns, wanted, where)
    captions = captions_of(columns[name])
    if captions is None:
        raise UserError(f"{where}: {name!r} is neither text nor a list of texts")
    return name, captions
