"""The files of a folder that are data: one rule for all kinds of sources."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from minimagen.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff",
          ".avif")  # fmt: skip
SYSTEM = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found",
          "system volume information"}  # fmt: skip
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PARQUET = ".parquet"
TABLES = (".csv", ".tsv", ".json", ".jsonl", PARQUET)  # what may describe images
TRAINING = ("train", "training")
VALIDATION = ("validation", "valid", "val", "dev", "test")  # the first that is there validates
RUN_FILES = ("parameters/imagen.json", "imagen_training_directory.txt")  # what this program writes
END_BYTES = 2**14  # of an archive's beginning and end, which differ between archives

log = logging.getLogger(__name__)


def printable(name: str | Path) -> str:
    r"""Return a name as it can be printed: a byte that is no UTF-8 as \xe9."""
    text = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", str(name))
    return text.encode("utf-8", "backslashreplace").decode()


def relative_names(paths: Sequence[str]) -> list[str]:
    """Return what stays of names when all of them move to another folder."""
    common = os.path.commonprefix(paths).replace(os.sep, "/").rfind("/") + 1
    return [path[common:] for path in paths]


def digest_of(archives: Sequence[str], *more: str) -> str:
    """Return what identifies archives: their relative names, sizes and both ends.

    One that is missing or behind a URL counts by its name only. ``more`` counts too.
    """
    digest = hashlib.blake2b(repr((relative_names(archives), more)).encode(), digest_size=16)
    for path in archives:
        with suppress(OSError), open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - END_BYTES))
            digest.update(size.to_bytes(8, "little") + file.read())
            file.seek(0)
            digest.update(file.read(END_BYTES))
    return digest.hexdigest()


def division(names: Iterable[str]) -> tuple[str | None, str | None]:
    """Return the name of what is trained on and of what validates; None where there is none."""
    found = {name.lower(): name for name in names}
    training = next((found[name] for name in TRAINING if name in found), None)
    return training, next((found[name] for name in VALIDATION if name in found), None)


def is_system(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or made by an operating system."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in SYSTEM


@dataclass(frozen=True)
class Listing:
    """Files of a folder that may be data."""

    folder: Path  # absolute
    files: list[str]  # relative to the folder, in order of name, those of its sub-folders too
    root: Path  # what was listed; messages name it
    left_out: Counter[str] = field(default_factory=Counter)  # how many of what is no data

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the files whose names end like this, in any case."""
        return [file for file in self.files if file.lower().endswith(suffixes)]

    def paths(self, files: Iterable[str]) -> list[str]:
        """Return the absolute paths of some files."""
        return [str(self.folder / file) for file in files]

    def innermost(self) -> "Listing":
        """Return the files of the deepest folder that holds all images and archives."""
        tops = {_top(file) for file in self.with_suffix(*IMAGES, *TARS, PARQUET)}
        return self if len(tops) != 1 or tops == {""} else self._below(tops.pop()).innermost()

    def by_folder(self) -> list["Listing"]:
        """Divide into what is trained on and what validates by the names of the top folders.

        ``train`` is trained on and the first of ``VALIDATION`` validates, if both are there; other
        files are left out. Without ``train``, the folders beside one that validates are trained on,
        unless a table beside them describes all; without that too, all files are.
        """

        def named(top: str) -> str:
            return f"files in {printable(top)}/" if top else "files beside them"

        beside = [file for file in self.with_suffix(*TABLES) if not _top(file)]
        if division(map(_top, self.files))[0] is None and beside:  # it may speak of all folders
            return [self]
        training, held_out = self._divided(self.files, _top, named)
        if not held_out:
            return [self]
        alone = {_top(file) for file in training}
        parts = self._below(alone.pop()) if len(alone) == 1 else replace(self, files=training)
        return [parts, self._below(_top(held_out[0]))]

    def by_name(self, files: Collection[str]) -> tuple[list[str], list[str]]:
        """Divide archives into those trained on and those that validate by words in their names.

        ``train-00000.tar`` is trained on, ``val-00000.tar`` validates; without the first word those
        without a word are trained on, without any all are.
        """

        def label(file: str) -> str:
            words = reversed(re.split("[^a-z]+", file.lower()))
            return next((word for word in words if word in (*TRAINING, *VALIDATION)), "")

        return self._divided(files, label, lambda part: f"{part or 'other'} files")

    def _divided(
        self, files: Iterable[str], label: Callable[[str], str], named: Callable[[str], str]
    ) -> tuple[list[str], list[str]]:
        """Divide by label; what is neither trained on nor validates is counted as ``named``."""
        parts: dict[str, list[str]] = {}
        for file in files:
            parts.setdefault(label(file), []).append(file)
        training, held_out = division(parts)
        beside = [part for part in parts if part.lower() not in VALIDATION]
        if held_out is None or not beside:
            return list(files), []
        trained_on = beside if training is None else [training]
        for part, others in parts.items():
            if part not in (*trained_on, held_out):
                self.left_out[named(part)] += len(others)
        return [file for part in trained_on for file in parts[part]], parts[held_out]

    def log_left_out(self, used: Iterable[str] = ()) -> None:
        """Log in one line what was found beside the files that are ``used``."""
        kinds: dict[str, list[str]] = {}
        for file in sorted(set(self.files).difference(used)):
            kinds.setdefault(os.path.splitext(file)[1].lower() or "other", []).append(file)
        found = [f"{count} {what}" for what, count in self.left_out.items()]
        found += [f"{len(v)} {kind} ({printable(v[0])})" for kind, v in kinds.items()]
        if found:
            log.warning("%s: left out %s", printable(self.root), ", ".join(found))
        self.left_out.clear()  # which all parts of a folder share

    def _below(self, top: str) -> "Listing":
        start = top + os.sep
        files = [file[len(start) :] for file in self.files if file.startswith(start)]
        return Listing(self.folder / top, files, self.root, self.left_out)


def _top(file: str) -> str:
    """Return the first folder of a relative path, "" where there is none."""
    return file.partition(os.sep)[0] if os.sep in file else ""


def list_files(folder: Path) -> Listing:
    """List a folder that exists, all its sub-folders too; links are followed.

    What is hidden, what systems make and what this program wrote (runs, generated images) is no
    data.
    """
    listing = Listing(folder.absolute(), [], folder)
    try:
        listing.files.extend(_walk(str(listing.folder), "", frozenset(), listing.left_out))
    except OSError as error:
        where = printable(error.filename or folder)
        raise UserError(f"{where} cannot be read: {error.strerror}") from error
    listing.files.sort(key=lambda file: file.split(os.sep))
    return listing


def _walk(
    root: str, below: str, above: frozenset[tuple[int, int]], left_out: Counter[str]
) -> Iterator[str]:
    folder = os.path.join(root, below)
    stat = os.stat(folder)
    here = above | {(stat.st_dev, stat.st_ino)}
    if len(here) == len(above):
        left_out["links to a folder above them"] += 1
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = os.path.join(below, entry.name)
            if is_system(entry.name):
                left_out["hidden or system files"] += 1
            elif entry.is_file():
                yield path
            elif not entry.is_dir():
                left_out["broken links"] += 1
            elif any(os.path.isfile(os.path.join(entry.path, name)) for name in RUN_FILES):
                left_out["folders that this program wrote"] += 1
            else:
                yield from _walk(root, path, here, left_out)
