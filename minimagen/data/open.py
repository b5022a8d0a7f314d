"""One argument, `--DATASET`, to captioned images: what a source is, its content decides.

docs/data.md has the order in which the kinds of sources are tried.
"""

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from minimagen.config import DataConfig, Size
from minimagen.config.data import CAPTION_COLUMN, CENTER, EPOCH_SIZE, Crop, is_embedded
from minimagen.data.dataset import Dataset, Stream, Table
from minimagen.data.download.download import download
from minimagen.data.download.url_table import fingerprint, is_url_table, named
from minimagen.data.images.buckets import bucketed
from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import Framing
from minimagen.data.images.stream import ImageStream
from minimagen.data.sources import folder, hub
from minimagen.data.sources.listing import IMAGES, PARQUET, TARS, Listing, list_files
from minimagen.data.sources.shard_names import expand
from minimagen.data.sources.shards import TarStream
from minimagen.data.where import Where
from minimagen.errors import UserError, did_you_mean
from minimagen.shapes.dataset import NAMES, embedded
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import locked

LONGEST_DOWNLOAD = 7 * 24 * 3600.0  # seconds
KEPT_OF_A_TABLE = ("url", "text")  # its columns that a download keeps
SAVED = ("dataset_dict.json", "state.json")  # one of them is written by datasets' save_to_disk


def load_dataset(
    name_or_path: str | Path,
    size: Size | int = (64, 64),
    *,
    seed: int = 0,
    epoch_size: int = EPOCH_SIZE,
    caption_column: str = CAPTION_COLUMN,
    crop: str = CENTER,
    flip: bool = False,
    buckets: Sequence[Size] = (),
    streaming: bool = False,
    where: str | None = None,
    trained_in: Sequence[Size] = (),
) -> Dataset:
    """Open the data to train on; docs/data.md has the table of what it may be.

    Args:
        name_or_path: "shapes", "shapes:scenes" or "digits" (the embedded data, drawn), a folder, a
            file, or the name of a data set of the hub. A folder called shapes is "./shapes".
        size: (height, width) in pixels, or the side of a square; the embedded data is square.
        seed: of the embedded data.
        epoch_size: of the embedded data, images per epoch.
        caption_column: where the captions are, in data with columns; "text", or an attribute of the
            embedded data.
        crop: of images of another aspect ratio in training, "centre" or "random".
        flip: mirror half of the images in training.
        buckets: sizes of other aspect ratios, see ``minimagen.config.cascade_sizes``: each image
            gets the nearest, each batch has images of one size. Without them all get ``size``.
        streaming: read parquet and the hub while training instead of before.
        where: a condition on the columns, or on width and height of the images in pixels, such as
            "width >= 64"; see ``minimagen.data.where``.
        trained_in: the buckets of a training whose division is wanted again, at one size; see
            ``bucketed``.

    Raises:
        UserError: there is no such data, or it is not usable.
    """
    size = _checked_size(size)
    name = str(name_or_path)
    condition = None if where is None else Where(where)
    if is_embedded(name):
        _check_drawn(name.partition(":")[0], size, buckets, where)
        stream = {"size": size[0], "seed": seed, "epoch_size": epoch_size}
        return embedded(name, caption_column=caption_column, **stream)
    framing = Framing(size, _checked_crop(crop), flip, tuple(buckets))
    dataset = _Opener(framing, caption_column, streaming, condition).open(name)
    dataset.description = {
        "dataset": _absolute(name), "caption_column": caption_column,
        "crop": crop, "flip": flip, "aspect_buckets": bool(buckets), "streaming": streaming,
        "where": where,
    }  # fmt: skip
    if dataset.repeatable and (buckets or trained_in):
        return bucketed(dataset, trained_in)
    return dataset


def _checked_crop(crop: str) -> str:
    known = get_args(Crop)
    if crop not in known:
        names = ", ".join(known)
        raise UserError(f"crop {crop!r} is not one of {names}{did_you_mean(crop, known)}")
    return crop


def _check_drawn(kind: str, size: Size, buckets: Sequence[Size], where: str | None) -> None:
    """Raise a UserError for what only images of the user's own can have."""
    if where is not None:
        raise UserError(f"{kind} are drawn, not read: `where` needs images of your own")
    if size[0] != size[1]:
        raise UserError(f"{kind} are square: {size[0]} x {size[1]} needs images of your own")
    if buckets:
        raise UserError(f"{kind} are square: aspect buckets need images of your own")


def _checked_size(size: Size | int) -> Size:
    sides = (size, size) if isinstance(size, int) else size
    pair = isinstance(sides, tuple | list) and len(sides) == 2
    if not pair or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(
            f"size {size!r} is neither (height, width) nor a side in pixels, such as 64"
        )
    return sides[0], sides[1]


def _absolute(name: str) -> str:
    """Return a name that means the same in another working directory."""
    local = Path(name).exists() or (name.endswith(TARS) and "://" not in name)
    return str(Path(name).absolute()) if local else name


@dataclass(frozen=True)
class _Opener:
    """Finds out what data is, from what is in it, and opens it."""

    framing: Framing
    column: str
    streaming: bool
    where: Where | None

    def open(self, name: str) -> ImageDataset | ImageStream:
        """Open images that are not drawn. A path that exists is never a pattern or another name."""
        path = Path(name)
        if path.is_dir():
            return self._folder(path)
        if path.exists():
            return self._file(path)
        if name.startswith("pipe:") or name.endswith(TARS):
            return self._streamed(self._shards(expand(name)))
        hint = did_you_mean(name, NAMES)
        if not hint and hub.HUB_ID.fullmatch(name):
            return self._library(hub.open_hub(name, self.streaming))
        raise UserError(
            f"no data set {name!r}: give {', '.join(NAMES)}, a folder with images and captions, "
            f"or the name of a data set on the hub (owner/name){hint}"
        )

    def _file(self, path: Path) -> ImageDataset | ImageStream:
        """Open a tar shard, parquet with images, or a table of URLs or files."""
        if path.name.lower().endswith(TARS) or tarfile.is_tarfile(path):
            return self._streamed(self._shards([str(path)]))
        if path.suffix.lower() == PARQUET and hub.has_images(path):
            return self._library(hub.open_parquet(path.name, [str(path)], [], self.streaming))
        if is_url_table(path):
            out = cache_folder("downloads") / named(fingerprint(path), self.column)
            return self._downloaded(path, out, self.column)
        return self._indexed(self._metadata(path))

    def _folder(self, path: Path) -> ImageDataset | ImageStream:
        """Open the first kind of data, in the order of docs/data.md, that is in a folder."""
        if any((path / name).is_file() for name in SAVED) and any(path.rglob("*.arrow")):
            return self._library(hub.open_saved(path))
        if metadata := folder.metadata_of_files(path):  # then a large folder need not be listed
            return self._indexed(self._metadata(metadata))
        parts = list_files(path).innermost().by_folder()
        training = parts[0]
        if folder.metadata_of_files(training.folder) or folder.text_files(training):
            return self._indexed(*map(self._images, parts))
        if any(found := _archives(parts, PARQUET, wanted=hub.has_images)):
            return self._library(hub.open_parquet(path.name, *found, self.streaming))
        if any(found := _archives(parts, *TARS)):
            return self._streamed(*(self._shards(some) for some in found if some))
        if not training.with_suffix(*IMAGES) and folder.find_metadata(training.folder) is None:
            if any(found := _archives(parts, PARQUET)):  # perhaps of URLs
                return self._library(hub.open_parquet(path.name, *found, streaming=False))
        return self._indexed(self._images(training))

    def _library(self, splits: hub.Splits) -> ImageDataset | ImageStream:
        """Open what the `datasets` library reads."""
        if (found := hub.url_table(splits, self.column)) is not None:
            return self._downloaded(found[0], found[0].with_suffix(""), found[1])
        if splits.streamed:
            return self._streamed(*hub.streams(splits, self.column, self.where))
        return self._indexed(*hub.tables(splits, self.column, self.where))

    def _downloaded(self, table: Path, out: Path, column: str) -> ImageStream:
        if self.where is not None:  # an error now, not after hours of downloading
            self.where.check(KEPT_OF_A_TABLE, "kept of a URL table")
        with locked(out.with_suffix(".lock"), LONGEST_DOWNLOAD):  # other processes wait for it
            shards = download(table, out, column).shards
        return self._streamed(TarStream(tuple(shards), where=self.where))

    def _images(self, part: Listing) -> Table:
        return folder.image_table(part, self.column, self.where)

    def _metadata(self, file: Path) -> Table:
        return folder.metadata_table(file, self.column, self.where)

    def _shards(self, shards: Sequence[str]) -> TarStream:
        return TarStream(tuple(shards), self.column, self.where)

    def _indexed(self, training: Table, held_out: Table | None = None) -> ImageDataset:
        validation = ImageDataset(held_out, self.framing) if held_out is not None else None
        return ImageDataset(training, self.framing, validation)

    def _streamed(self, training: Stream, held_out: Stream | None = None) -> ImageStream:
        validation = ImageStream(held_out, self.framing) if held_out is not None else None
        return ImageStream(training, self.framing, validation)


def _archives(
    parts: Sequence[Listing], *suffixes: str, wanted: Callable[[Path], bool] = lambda _: True
) -> tuple[list[str], list[str]]:
    """Return the paths of the wanted files to train on, and of those that validate."""
    found = [
        [file for file in part.with_suffix(*suffixes) if wanted(part.folder / file)]
        for part in parts
    ]
    training, held_out = found if len(found) > 1 else parts[0].by_name(found[0])
    if training:
        for part, some in zip(parts, found, strict=True):
            part.log_left_out(some)
    return parts[0].paths(training), parts[-1].paths(held_out)


def open_again(data: DataConfig, size: Size | int, buckets: Sequence[Size] = ()) -> Dataset:
    """Open the data of a training, to be divided as it was.

    Args:
        data: What the training read.
        size: (height, width) in pixels of all images, or the side of a square.
        buckets: The sizes that the training had images of (``trained_sizes``), if more than one.

    Raises:
        UserError: there is no such data, or it is not usable.
    """
    return load_dataset(
        data.dataset, size, seed=data.seed, epoch_size=data.epoch_size, crop=data.crop,
        caption_column=data.caption_column, where=data.where, streaming=data.streaming,
        trained_in=buckets,
    )  # fmt: skip
