"""Tables of image URLs and captions, as Conceptual Captions and LAION come."""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from minimagen.config.data import CAPTION_COLUMN
from minimagen.data.sources.table import (
    READERS,
    csv_rows,
    parquet_schema,
    read_table,
    row_captions,
)
from minimagen.errors import UserError

URL_COLUMNS = ("url", "image_url")
BARE_COLUMNS = ("caption", "url")  # of a table without a line of column names
START_BYTES = 2**20  # of a table, which identify it


class UrlRow(NamedTuple):
    """Where an image is and what it shows; no captions where the table has none for it."""

    url: str
    captions: tuple[str, ...]


def is_url_table(file: Path) -> bool:
    """Return whether a file is a URL table: by its columns, or as Conceptual Captions' are."""
    if file.suffix.lower() not in READERS:
        return False
    if _is_bare(file):
        return True
    if file.suffix.lower() == ".parquet":  # whose first rows may be megabytes of images
        columns = parquet_schema(file).names
    else:
        columns = list(next(read_table(file), ("", {}))[1])
    return "file_name" not in columns and url_column(columns) is not None


def url_rows(file: Path, column: str) -> Iterator[UrlRow]:
    """Read a table's URLs and captions."""
    bare = _is_bare(file)
    for where, columns in read_table(file, _bare_rows if bare else None):
        url = url_column(columns)
        if url is None:
            raise UserError(f"{where} has no column url among {', '.join(columns)}")
        lower = {name.lower(): name for name in columns}
        wanted = BARE_COLUMNS[0] if bare else lower.get(column, column)
        _, captions = row_captions(columns, wanted, where)
        yield UrlRow(str(columns[url] or ""), captions)


def fingerprint(file: Path) -> str:
    """Return what identifies a table, in time that does not depend on its size."""
    with file.open("rb") as opened:
        start = opened.read(START_BYTES)
    digest = hashlib.blake2b(start, digest_size=16)
    digest.update(str(file.stat().st_size).encode())
    return digest.hexdigest()


def named(table: str, column: str) -> str:
    """Return what the images of a table with the captions of a column are called in the cache."""
    if column == CAPTION_COLUMN:
        return table
    return f"{table}-{hashlib.blake2b(column.encode(), digest_size=4).hexdigest()}"


def url_column(columns: Iterable[str]) -> str | None:
    """Return the column of URLs, None where there is none."""
    return next((name for name in columns if name.lower() in URL_COLUMNS), None)


_bare_rows = partial(csv_rows, delimiters="\t", fieldnames=BARE_COLUMNS, quoting=csv.QUOTE_NONE)


def _is_bare(file: Path) -> bool:
    """Return whether it is tab-separated "caption, URL" without a line of column names."""
    if file.suffix.lower() != ".tsv":
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline().rstrip("\r\n").split("\t")
    return len(first) == 2 and first[1].lower().startswith(("http://", "https://"))
