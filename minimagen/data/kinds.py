"""What a source is, found out from what is in it; docs/data.md has the order."""

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minimagen.data.dataset import Stream, Table
from minimagen.data.download.download import download
from minimagen.data.download.url_table import fingerprint, is_url_table
from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import Framing
from minimagen.data.images.stream import ImageStream
from minimagen.data.sources.folder import (
    find_metadata,
    image_table,
    metadata_table,
    names_files,
    text_files,
)
from minimagen.data.sources.hub import HUB_ID, has_images, open_hub, open_parquet, open_saved
from minimagen.data.sources.library import Splits, streams, tables, url_table
from minimagen.data.sources.listing import IMAGES, PARQUET, TARS, Listing, list_files
from minimagen.data.sources.shards import TarStream, expand
from minimagen.errors import UserError, did_you_mean
from minimagen.storage.cache import cache_folder

SAVED = ("dataset_dict.json", "state.json")  # one of them is written by datasets' save_to_disk


@dataclass(frozen=True)
class Opener:
    """Finds out what data is, from what is in it, and opens it.

    Attributes:
        framing: size, crop and flip of the samples.
        column: where the captions are, in data with columns.
        streaming: read parquet and the hub while training.
    """

    framing: Framing
    column: str
    streaming: bool

    def open(self, name: str) -> ImageDataset | ImageStream:
        """Open images that are not drawn. A path that exists is never a pattern or another name.

        Raises:
            UserError: there is no such data, or it is not usable.
        """
        path = Path(name)
        if path.is_dir():
            return self._folder(path)
        if path.exists():
            return self._file(path)
        if name.startswith("pipe:") or name.endswith(TARS):
            return self._streamed(TarStream(expand(name), self.column))
        hint = did_you_mean(name, ("shapes", "shapes:scenes"))
        if not hint and HUB_ID.fullmatch(name):
            return self._library(open_hub(name, self.streaming))
        raise UserError(
            f"no data set {name!r}: give shapes, shapes:scenes, a folder with images and captions, "
            f"or the name of a data set on the hub (owner/name){hint}"
        )

    def _file(self, path: Path) -> ImageDataset | ImageStream:
        """Open a tar shard, parquet with images, or a table of URLs or files."""
        if _is_tar(path) or tarfile.is_tarfile(path):
            return self._streamed(TarStream((str(path),), self.column))
        if _is_parquet_of_images(path):
            return self._library(open_parquet(path.name, [str(path)], [], self.streaming))
        if is_url_table(path):
            return self._downloaded(
                path, cache_folder("downloads") / fingerprint(path), self.column
            )
        return self._indexed(metadata_table(path, self.column))

    def _folder(self, path: Path) -> ImageDataset | ImageStream:
        """Open the first kind of data, in the order of docs/data.md, that is in a folder."""
        if any((path / name).is_file() for name in SAVED) and any(path.rglob("*.arrow")):
            return self._library(open_saved(path))
        if names_files(path):  # then nothing else is read of a folder that may be large
            return self._indexed(image_table(Listing(path, [], path), self.column))
        training, held_out = list_files(path).innermost().by_folder()
        parts = [training] if held_out is None else [training, held_out]
        if names_files(training.folder) or text_files(training):
            return self._indexed(*(image_table(part, self.column) for part in parts))
        if any(found := _archives(parts, _is_parquet_of_images)):
            return self._library(open_parquet(path.name, *found, self.streaming))
        if any(found := _archives(parts, _is_tar)):
            return self._streamed(*(TarStream(some, self.column) for some in found if some))
        if not training.with_suffix(*IMAGES) and find_metadata(training.folder) is None:
            if any(found := _archives(parts, _is_parquet)):  # perhaps of URLs
                return self._library(open_parquet(path.name, *found, False))
        return self._indexed(image_table(training, self.column))

    def _library(self, splits: Splits) -> ImageDataset | ImageStream:
        """Open what the `datasets` library reads."""
        if (found := url_table(splits, self.column)) is not None:
            return self._downloaded(found[0], found[0].with_suffix(""), found[1])
        if splits.streamed:
            return self._streamed(*streams(splits, self.column))
        return self._indexed(*tables(splits, self.column))

    def _downloaded(self, table: Path, out: Path, column: str) -> ImageStream:
        return self._streamed(TarStream(tuple(download(table, out, column).shards)))

    def _indexed(self, training: Table, held_out: Table | None = None) -> ImageDataset:
        validation = ImageDataset(held_out, self.framing) if held_out is not None else None
        return ImageDataset(training, self.framing, validation)

    def _streamed(self, training: Stream, held_out: Stream | None = None) -> ImageStream:
        validation = ImageStream(held_out, self.framing) if held_out is not None else None
        return ImageStream(training, self.framing, validation)


def absolute(name: str) -> str:
    """Return a name that means the same in another working directory."""
    local = Path(name).exists() or (name.endswith(TARS) and "://" not in name)
    return str(Path(name).absolute()) if local else name


def _is_tar(file: Path) -> bool:
    return file.name.lower().endswith(TARS)


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == PARQUET


def _is_parquet_of_images(file: Path) -> bool:
    return _is_parquet(file) and has_images(file)


def _archives(
    parts: Sequence[Listing], wanted: Callable[[Path], bool]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the paths of the wanted files to train on, and of those that validate."""
    found = [[file for file in part.files if wanted(part.folder / file)] for part in parts]
    training, held_out = found if len(found) > 1 else parts[0].by_name(found[0])
    if training:
        for part, some in zip(parts, found, strict=True):
            part.log_left_out(some)
    return parts[0].paths(training), parts[-1].paths(held_out)
