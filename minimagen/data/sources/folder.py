"""Image files with captions: in .txt files beside them, or in one metadata file."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from minimagen.data.sources.captions import captions_of
from minimagen.data.sources.file_table import FileRow, FileTable, file_table, size_of
from minimagen.data.sources.listing import IMAGES, Listing, printable
from minimagen.data.sources.table import metadata_rows, read_table
from minimagen.errors import UserError
from minimagen.storage.files import read_lines

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
LOOKED_AT = 10  # rows of a metadata file that show whether its images are files


def find_metadata(folder: Path) -> Path | None:
    """Return a folder's metadata file, None where there is none.

    Raises:
        UserError: there are several.
    """
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise UserError(f"{printable(folder)} holds {names}: keep one, or give the file itself")
    return found[0] if found else None


def names_files(folder: Path) -> bool:
    """Return whether a folder has metadata, and any of the first images that it names is a file.

    They may be in an archive beside it instead.

    Raises:
        UserError: it cannot be read.
    """
    if (metadata := find_metadata(folder)) is None:
        return False
    some = itertools.islice(read_table(metadata), LOOKED_AT)
    names = [columns.get("file_name") for _, columns in some]
    return any(isinstance(name, str) and size_of(folder / name) >= 0 for name in names)


def image_table(part: Listing, caption_column: str) -> FileTable:
    """Open the images of a folder, with captions from its metadata or from .txt files.

    Raises:
        UserError: there are no images or no captions, or they cannot be read.
    """
    metadata, texts = find_metadata(part.folder), text_files(part)
    if metadata is not None and (not texts or names_files(part.folder)):
        part.log_left_out(part.files)
        return metadata_table(metadata, caption_column)
    images = part.with_suffix(*IMAGES)
    part.log_left_out([*images, *texts.values()])
    if not images:
        raise UserError(f"{printable(part.folder)} holds no images ({' '.join(IMAGES)})")
    return _text_file_table(part.folder, images, texts)


def metadata_table(metadata: Path, caption_column: str) -> FileTable:
    """Open the images that a metadata file names, with their captions.

    Args:
        metadata: jsonl, csv, tsv or parquet, of any name, with the columns file_name (relative to
            it) and ``caption_column``; other text columns become attributes.
        caption_column: its name; a list of captions means variants.

    Raises:
        UserError: it cannot be read, or names no image or no caption.
    """
    stat = metadata.stat()
    key = (os.fsencode(metadata), caption_column, stat.st_mtime_ns, stat.st_size)
    folder = metadata.parent.absolute()
    table = file_table(folder, key, lambda: metadata_rows(metadata, caption_column))
    if not table.has_files():
        name = printable(folder / table.first_file) if len(table) else "no row"
        raise UserError(
            f"no image that {printable(metadata)} names is a file (the first: {name}): file_name "
            "is relative to the folder of the metadata"
        )
    return _captioned(table)


def text_files(listing: Listing) -> dict[str, str]:
    """Return the .txt file of each image that has one: of the same name but for the suffix."""
    texts = {os.path.splitext(file)[0]: file for file in listing.with_suffix(".txt")}
    texts |= {file[:-4]: file for file in listing.files if file.endswith(".txt")}  # before .TXT
    images = ((file, texts.get(os.path.splitext(file)[0])) for file in listing.with_suffix(*IMAGES))
    return {file: text for file, text in images if text is not None}


def _text_file_table(folder: Path, images: list[str], texts: dict[str, str]) -> FileTable:
    """Open images whose captions are the lines of a .txt file of the same name."""
    key = (images, [[_stamp(folder / file) for file in (i, texts.get(i)) if file] for i in images])

    def rows() -> Iterator[FileRow]:
        for image in images:
            lines = read_lines(folder / texts[image]) if image in texts else []
            yield FileRow(image, captions_of(lines) or (), {}, size_of(folder / image))

    return _captioned(file_table(folder, key, rows))


def _stamp(file: Path) -> tuple[int, int]:
    """Return what changes when a file does."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _captioned(table: FileTable) -> FileTable:
    """Return the table if any of its images has a caption; training counts those without."""
    if not table.has_captions():
        raise UserError(
            f"{printable(table.folder)} holds no captions: it needs a metadata.jsonl with "
            "file_name and text on each line, or a .txt file beside each image"
        )
    return table
