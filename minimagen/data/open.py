"""One argument, `--DATASET`, to captioned pictures."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from minimagen.config import Size
from minimagen.data.dataset import Dataset
from minimagen.data.images.buckets import bucketed
from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import CROPS, Framing
from minimagen.data.images.stream import ImageStream
from minimagen.data.sources.table import parquet_columns
from minimagen.errors import UserError, did_you_mean
from minimagen.shapes.dataset import ShapesDataset
from minimagen.storage.cache import cache_folder

TAR = (".tar", ".tar.gz")
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # by datasets' save_to_disk


def load_dataset(
    name_or_path: str | Path,
    size: Size | int = (64, 64),
    *,
    level: str = "simple",
    seed: int = 0,
    epoch_size: int = 20_000,
    caption_column: str = "text",
    crop: str = "centre",
    flip: bool = False,
    buckets: Sequence[Size] = (),
    streaming: bool = False,
) -> Dataset:
    """Open the data to train on; docs/data.md has the table of what it may be.

    Args:
        name_or_path: "shapes" (the embedded data), "shapes:scenes" (its second level), a folder,
            a file, or the name of a data set of the hub. A folder called shapes is "./shapes".
        size: (height, width) of the images in pixels, or the side of a square; the embedded data
            is square.
        level: of the embedded data, where the name does not say it.
        seed: of the embedded data.
        epoch_size: of the embedded data, pictures per epoch.
        caption_column: where the captions are, in data with columns.
        crop: of pictures of another aspect ratio in training, "centre" or "random".
        flip: mirror every second picture in training.
        buckets: sizes of other aspect ratios, see ``minimagen.images.aspect_buckets``: each picture
            gets the nearest, each batch has pictures of one size. Without them all get ``size``.
        streaming: read parquet and the hub while training instead of before.

    Raises:
        UserError: there is no such data, or it is not usable.
    """
    size = _checked_size(size)
    name, _, named_level = str(name_or_path).partition(":")
    if name == "shapes":
        if size[0] != size[1]:
            raise UserError(f"shapes are square: {size[0]} x {size[1]} needs a folder of your own")
        if buckets:
            raise UserError("shapes are square: aspect buckets need pictures of your own")
        return ShapesDataset("train", named_level or level, size[0], seed, epoch_size)
    if crop not in CROPS:
        raise UserError(
            f"crop {crop!r} is not one of {', '.join(CROPS)}{did_you_mean(crop, CROPS)}"
        )
    framing = Framing(size, crop, flip, tuple(buckets))
    dataset = _load_pictures(str(name_or_path), framing, caption_column, streaming)
    dataset.opened = {
        "dataset": _absolute(str(name_or_path)), "caption_column": caption_column, "crop": crop,
        "flip": flip, "aspect_buckets": bool(buckets), "streaming": streaming,
    }  # fmt: skip
    if buckets and dataset.repeatable:
        return bucketed(dataset)
    return dataset


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
    local = Path(name).exists() or (name.endswith(TAR) and "://" not in name)
    return str(Path(name).absolute()) if local else name


def _load_pictures(
    name: str, framing: Framing, caption_column: str, streaming: bool
) -> ImageDataset | ImageStream:
    """Open pictures that are not drawn."""
    path = Path(name)
    if path.exists():
        return _load_path(path, framing, caption_column, streaming)
    if name.startswith("pipe:") or name.endswith(TAR):
        from minimagen.data.sources.shards import load_shards

        return load_shards([name], framing, caption_column)
    hint = did_you_mean(name, ("shapes", "shapes:scenes"))
    from minimagen.data.sources.hub import HUB_ID, load_hub

    if not hint and HUB_ID.fullmatch(name):
        return load_hub(name, framing, caption_column, streaming)
    raise UserError(
        f"no data set {name!r}: give shapes, shapes:scenes, a folder with pictures and captions, "
        f"or the name of a data set on the hub (owner/name){hint}"
    )


def _load_path(
    path: Path, framing: Framing, caption_column: str, streaming: bool
) -> ImageDataset | ImageStream:
    """Open a file or a folder by what is in it."""
    from minimagen.data.download.download import download
    from minimagen.data.download.url_table import fingerprint, is_url_table
    from minimagen.data.sources.folder import find_metadata, load_folder
    from minimagen.data.sources.hub import load_parquet, load_saved
    from minimagen.data.sources.shards import load_shards

    if path.name.endswith(TAR):
        return load_shards([str(path)], framing, caption_column)
    if path.is_file():
        if is_url_table(path):
            out = cache_folder("downloads") / fingerprint(path)
            shards = download(path, out, caption_column).shards
            return load_shards(shards, framing)
        if path.suffix.lower() == ".parquet" and "file_name" not in parquet_columns(path):
            return load_parquet(path, framing, caption_column, streaming)
        return load_folder(path, framing, caption_column)
    if any((path / name).is_file() for name in SAVED):
        return load_saved(path, framing, caption_column)
    if find_metadata(path) is None and any(_parquet_files(path)):
        return load_parquet(path, framing, caption_column, streaming)
    for training, validation in ((path / "train", path / "validation"), (path, None)):
        if shards := _tars(training):
            held_out = _tars(validation) if validation else []
            return load_shards(shards, framing, caption_column, held_out)
    return load_folder(path, framing, caption_column)


def _tars(path: Path) -> list[str]:
    """Return a folder's tar shards."""
    return sorted(str(file) for file in path.glob("*.tar*") if file.name.endswith(TAR))


def _parquet_files(path: Path) -> Iterator[Path]:
    """Find parquet files that are not metadata, in the folder or one below."""
    files = itertools.chain(path.glob("*.parquet"), path.glob("*/*.parquet"))
    return (file for file in files if file.name != "metadata.parquet")
