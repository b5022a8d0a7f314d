"""A folder of the user's own pictures and captions."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import Framing
from minimagen.data.sources.captions import captions_of
from minimagen.data.sources.file_table import FileRow, FileTable, file_table
from minimagen.data.sources.table import metadata_rows
from minimagen.errors import UserError
from minimagen.storage.files import read_lines

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def load_folder(
    path: str | Path, framing: Framing | None = None, caption_column: str = "text"
) -> ImageDataset:
    """Open a folder of pictures with captions.

    The captions come from `metadata.jsonl`, `.csv` or `.parquet` (`file_name`, `text` and, if you
    like, further text columns, which become attributes), or from .txt files named like the
    pictures. A list of captions, or several lines of a .txt file, are variants: training draws
    one each time. Sub-folders `train` and `validation` are the training set and the `validation`
    of the result.

    Args:
        path: the folder, or its metadata file, of any name.
        framing: size, crop and flip of the samples.
        caption_column: the name of the caption in the metadata.

    Raises:
        UserError: the folder is missing or holds no pictures or no captions, a caption file
            cannot be read, or a named picture does not exist.
    """
    path = Path(path)
    if path.is_file():
        return ImageDataset(_metadata_table(path, caption_column), framing)
    if not path.is_dir():
        raise UserError(f"no folder {str(path)!r}: give a folder with pictures and captions")
    train, validation = path / "train", path / "validation"
    if train.is_dir() and validation.is_dir():
        held_out = load_folder(validation, framing, caption_column)
        return ImageDataset(_table(train, caption_column), framing, held_out)
    if find_metadata(path) is None and find_metadata(train) is not None:
        path = train
    return ImageDataset(_table(path, caption_column), framing)


def find_metadata(folder: Path) -> Path | None:
    """Return a folder's metadata file, None where there is none.

    Raises:
        UserError: there are several, and nobody knows which one counts.
    """
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise UserError(f"{folder} holds {names}: keep one, or give the file itself")
    return found[0] if found else None


def _table(folder: Path, caption_column: str) -> FileTable:
    """List a folder's pictures and captions, from its metadata where there is some."""
    metadata = find_metadata(folder)
    if metadata is not None:
        return _metadata_table(metadata, caption_column)
    return _captioned(_text_file_table(folder))


def _metadata_table(metadata: Path, caption_column: str) -> FileTable:
    stat = metadata.stat()
    key = (metadata.name, caption_column, stat.st_mtime_ns, stat.st_size)
    folder = metadata.parent.absolute()
    return _captioned(file_table(folder, key, lambda: metadata_rows(metadata, caption_column)))


def _captioned(table: FileTable) -> FileTable:
    """Return the table if any of its pictures has a caption; training counts those without."""
    if not table.has_captions():
        raise UserError(
            f"{table.folder} holds no captions: it needs a metadata.jsonl with file_name and text "
            "on each line, or a .txt file beside each picture"
        )
    return table


def _text_file_table(folder: Path) -> FileTable:
    """List pictures with a .txt file of the same name, in any sub-folder, in order of name."""
    folder = folder.absolute()
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise UserError(f"{folder} holds no pictures ({' '.join(SUFFIXES)})")
    stamps = [_stamp(file.with_suffix(".txt")) for file in files]
    key = ([str(file) for file in files], stamps)
    return file_table(folder, key, lambda: _text_file_rows(folder, files))


def _stamp(file: Path) -> tuple[int, int] | None:
    """Return what changes when a file does; None where there is no file."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _text_file_rows(folder: Path, files: list[Path]) -> Iterator[FileRow]:
    for file in files:
        captions = tuple(_lines(file.with_suffix(".txt")))
        yield FileRow(str(file.relative_to(folder)), captions, {})


def _lines(file: Path) -> Iterable[str]:
    """Return the lines of a caption file that are not blank; none where there is no file."""
    return captions_of(read_lines(file)) or () if file.is_file() else ()
