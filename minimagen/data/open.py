"""One argument, `--DATASET`, to captioned images."""

from collections.abc import Sequence
from pathlib import Path

from minimagen.config import Size
from minimagen.data.dataset import Dataset
from minimagen.data.images.buckets import bucketed
from minimagen.data.images.decoding import CROPS, Framing
from minimagen.errors import UserError, did_you_mean
from minimagen.shapes.dataset import ShapesDataset


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
        epoch_size: of the embedded data, images per epoch.
        caption_column: where the captions are, in data with columns.
        crop: of images of another aspect ratio in training, "centre" or "random".
        flip: mirror half of the images in training.
        buckets: sizes of other aspect ratios, see ``minimagen.images.aspect_buckets``: each image
            gets the nearest, each batch has images of one size. Without them all get ``size``.
        streaming: read parquet and the hub while training instead of before.

    Raises:
        UserError: there is no such data, or it is not usable.
    """
    size = _checked_size(size)
    name, _, named_level = str(name_or_path).partition(":")
    if name == "shapes":
        if size[0] != size[1]:
            raise UserError(f"shapes are square: {size[0]} x {size[1]} needs images of your own")
        if buckets:
            raise UserError("shapes are square: aspect buckets need images of your own")
        return ShapesDataset("train", named_level or level, size[0], seed, epoch_size)
    if crop not in CROPS:
        raise UserError(
            f"crop {crop!r} is not one of {', '.join(CROPS)}{did_you_mean(crop, CROPS)}"
        )
    from minimagen.data.kinds import Opener, absolute  # which reads what shapes need not

    opener = Opener(Framing(size, crop, flip, tuple(buckets)), caption_column, streaming)
    dataset = opener.open(str(name_or_path))
    dataset.description = {
        "dataset": absolute(str(name_or_path)), "caption_column": caption_column,
        "crop": crop, "flip": flip, "aspect_buckets": bool(buckets), "streaming": streaming,
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
