"""Tables of image URLs and captions, as Conceptual Captions and LAION come."""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from minimagen.data.sources.captions import caption_column, captions_of
from minimagen.data.sources.table import READERS, parquet_schema, read_table
from minimagen.errors import UserError

URL_COLUMNS = ("url", "image_url")
START_BYTES = 2**20  # of a table, which identify it


class UrlRow(NamedTuple):
    """Where an image is and what it shows; no captions where the table has none for it."""

    url: str
    captions: tuple[str, ...]


def is_url_table(file: Path) -> bool:
    """Return whether a file is a URL table: by its columns, or as Conceptual Captions' are.

    Raises:
        UserError: it is a table that cannot be read.
    """
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
    """Read a table's URLs and captions.

    Raises:
        UserError: it cannot be read, or the caption column is missing or not text.
    """
    if _is_bare(file):
        yield from _bare_rows(file)
        return
    for where, columns in read_table(file):
        url = url_column(columns)
        if url is None:
            raise UserError(f"{where} has no column url among {', '.join(columns)}")
        lower = {name.lower(): name for name in columns}
        found = lower.get(column) or caption_column(columns, column, where)
        captions = captions_of(columns[found])
        if captions is None:
            raise UserError(f"{where}: {found!r} is neither text nor a list of texts")
        yield UrlRow(str(columns[url] or ""), captions)


def fingerprint(file: Path) -> str:
    """Return what identifies a table, in time that does not depend on its size."""
    with file.open("rb") as opened:
        start = opened.read(START_BYTES)
    digest = hashlib.blake2b(start, digest_size=16)
    digest.update(str(file.stat().st_size).encode())
    return digest.hexdigest()


def url_column(columns: Iterable[str]) -> str | None:
    """Return the column of URLs, None where there is none."""
    return next((name for name in columns if name.lower() in URL_COLUMNS), None)


def _is_bare(file: Path) -> bool:
    """Return whether it is tab-separated "caption, URL" without a line of column names."""
    if file.suffix.lower() != ".tsv":
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline().rstrip("\r\n").split("\t")
    return len(first) == 2 and first[1].lower().startswith(("http://", "https://"))


def _bare_rows(file: Path) -> Iterator[UrlRow]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            for cells in reader:
                if len(cells) != 2:
                    raise UserError(f"{file}, line {reader.line_num}: not a caption and a URL")
                yield UrlRow(cells[1], captions_of(cells[0]) or ())
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{file}, line {reader.line_num} is not a table: {error}") from error
