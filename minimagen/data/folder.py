"""A folder of the user's own pictures and captions."""

import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minimagen.data.sample import Sample
from minimagen.data.transforms import BadPictureError, centre_crop_resize, load_rgb
from minimagen.errors import UserError, did_you_mean

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
BAD_SHARE = 0.05  # more bad pictures than this, and the folder is not what the user thinks it is
CACHE_BYTES = 2**28  # decoded pictures kept in memory; beyond it they are decoded when asked for

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One caption of one picture file, and what else the folder says about it."""

    file: Path
    caption: str
    attributes: dict[str, str] = field(default_factory=dict)


class FolderDataset:
    """Captioned pictures from files, one row per caption, cropped and resized to one size."""

    def __init__(
        self,
        rows: list[Row],
        size: tuple[int, int] = (64, 64),
        validation: "FolderDataset | None" = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Read every picture once; the bad ones are logged and left out.

        Args:
            rows: what the folder holds.
            size: (height, width) of the samples in pixels.
            validation: the folder's own validation set, if it has one.
            cache_bytes: how many bytes of decoded pictures are kept.

        Raises:
            UserError: more than 5 % of the picture files are bad.
        """
        self.size, self.validation = size, validation
        self._cache: dict[Path, np.ndarray] = {}
        files = list(dict.fromkeys(row.file for row in rows))
        bad = self._read_all(files, cache_bytes // (3 * size[0] * size[1]))
        check_share_of_bad(list(bad.values()), len(files))
        self.rows = [row for row in rows if row.file not in bad]
        self.skipped = len(bad)

    def _read_all(self, files: list[Path], room: int) -> dict[Path, str]:
        """Read every file, keep the first `room` pictures, return why others cannot be read."""
        bad = {}
        # Pillow decodes outside Python's lock, so threads help.
        with ThreadPoolExecutor(4) as pool:
            for file, result in zip(files, pool.map(self._try_read, files), strict=True):
                if isinstance(result, str):
                    bad[file] = result
                elif len(self._cache) < room:
                    self._cache[file] = result
        return bad

    def _read(self, file: Path) -> np.ndarray:
        """Return uint8 [h, w, 3] of one file."""
        return centre_crop_resize(load_rgb(file), self.size)

    def _try_read(self, file: Path) -> np.ndarray | str:
        """Return the picture, or why it cannot be read."""
        try:
            return self._read(file)
        except BadPictureError as error:
            return str(error)

    def __len__(self) -> int:
        """Return the number of captions."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return one caption and its picture."""
        row = self.rows[index]
        image = self._cache.get(row.file)
        image = self._read(row.file) if image is None else image
        return Sample(image, row.caption, row.attributes, row.file.name)

    def __iter__(self) -> Iterator[Sample]:
        """Go through all captions."""
        return (self[index] for index in range(len(self)))


def check_share_of_bad(reasons: list[str], total: int) -> None:
    """Log what is wrong with bad samples, the first ten by name.

    Args:
        reasons: one line per bad sample.
        total: the number of all samples.

    Raises:
        UserError: more than 5 % are bad.
    """
    if not reasons:
        return
    for reason in reasons[:10]:
        log.warning("skipped %s", reason)
    summary = f"{len(reasons)} of {total} pictures are bad and skipped"
    log.warning(summary)
    if len(reasons) > BAD_SHARE * total:
        limit = f"more than {BAD_SHARE:.0%}"
        raise UserError(f"{summary}, {limit}: repair or remove them; the first: {reasons[0]}")


def load_folder(
    path: str | Path, size: tuple[int, int] = (64, 64), caption_column: str = "text"
) -> FolderDataset:
    """Open a folder of pictures with captions.

    The captions come from `metadata.jsonl` (an object per line with `file_name`, `text` and, if
    you like, further text columns, which become attributes), or from .txt files named like the
    pictures (every line is a caption of its own). Sub-folders `train` and `validation`, where both
    exist, are the training set and the `validation` of the result.

    Args:
        path: the folder.
        size: (height, width) of the samples in pixels.
        caption_column: the name of the caption in `metadata.jsonl`.

    Raises:
        UserError: the folder is missing or holds no pictures or no captions, a caption file
            cannot be read, a named picture does not exist, or more than 5 % are bad.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"no folder {str(path)!r}: give a folder with pictures and captions")
    if (path / "train").is_dir() and (path / "validation").is_dir():
        validation = load_folder(path / "validation", size, caption_column)
        rows = _read_rows(path / "train", caption_column)
        return FolderDataset(rows, size, validation)
    return FolderDataset(_read_rows(path, caption_column), size)


def _read_rows(folder: Path, caption_column: str) -> list[Row]:
    """List a folder's pictures and captions, from metadata.jsonl where there is one."""
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        rows = list(_metadata_rows(metadata, caption_column))
    else:
        rows = list(_text_file_rows(folder))
    if not rows:
        raise UserError(
            f"{folder} holds no captions: it needs a metadata.jsonl with file_name and "
            f"{caption_column} on each line, or a .txt file beside each picture"
        )
    return rows


def read_utf8(file: Path) -> str:
    """Return a text file's content.

    Raises:
        UserError: the file is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


def _metadata_rows(metadata: Path, caption_column: str) -> Iterator[Row]:
    """Read metadata.jsonl; rows with a blank caption are left out and counted as bad."""
    blank, number = [], 0
    for number, line in enumerate(read_utf8(metadata).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{metadata}, line {number}"
        columns = _columns(line, where)
        caption = _text_of(columns, caption_column, where)
        file = metadata.parent / _text_of(columns, "file_name", where)
        if not file.is_file():
            raise UserError(f"{where}: there is no picture {str(file)!r}")
        if not caption.strip():
            blank.append(f"{where}: blank caption")
            continue
        known = {"file_name", caption_column}
        attributes = {k: v for k, v in columns.items() if isinstance(v, str) and v}
        yield Row(file, caption, {k: v for k, v in attributes.items() if k not in known})
    check_share_of_bad(blank, number)


def _columns(line: str, where: str) -> dict[str, object]:
    """Parse one line of metadata.jsonl."""
    try:
        columns = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg}, column {error.colno}") from error
    if not isinstance(columns, dict):
        raise UserError(f"{where} is not a JSON object like {{'file_name': ..., 'text': ...}}")
    return columns


def _text_of(columns: dict[str, object], name: str, where: str) -> str:
    """Return a column that must be there and be text."""
    value = columns.get(name)
    if not isinstance(value, str):
        names = ", ".join(columns)
        raise UserError(f"{where} has no text {name!r} among {names}{did_you_mean(name, columns)}")
    return value


def _text_file_rows(folder: Path) -> Iterator[Row]:
    """Read pictures with a .txt file of the same name, in any sub-folder, in order of name."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise UserError(f"{folder} holds no pictures ({' '.join(SUFFIXES)})")
    captions = {file: list(_lines(file.with_suffix(".txt"))) for file in files}
    if any(captions.values()):
        missing = [f"{file}: no caption beside it" for file in files if not captions[file]]
        check_share_of_bad(missing, len(files))
    for file in files:
        yield from (Row(file, caption) for caption in captions[file])


def _lines(file: Path) -> Iterable[str]:
    """Return the lines of a caption file that are not blank; none where there is no file."""
    lines = read_utf8(file).splitlines() if file.is_file() else []
    return [line.strip() for line in lines if line.strip()]
