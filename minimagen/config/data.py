"""What a cascade trains on."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from minimagen.checked import Config, Flag, PositiveInt

ShapesSplit = Literal["train", "tune", "heldout"]
ShapesLevel = Literal["simple", "scenes"]
CENTER: Final = "centre"
Crop = Literal["centre", "random"]
CAPTION_COLUMN = "text"
EPOCH_SIZE = 20_000
"""Images of an epoch of data that is drawn without end, where a training does not say."""
EMBEDDED = ("shapes", "digits")
"""The data sets that are drawn; what follows a colon says of what."""


def is_embedded(dataset: str) -> bool:
    """Return whether a data set is drawn."""
    return dataset.partition(":")[0] in EMBEDDED


FOLDERS = re.compile(r"(?:^|(?<=[:=]))(?!//)/(?:[^/,=]+/)+")
"""The folders of a path of this machine, also behind a name: not those of a URL."""


def without_folders(text: str) -> str:
    """Return a value as others may see it: without the folders of this machine."""
    return Path(text).name if Path(text).is_absolute() else FOLDERS.sub("", text)


def title_of(dataset: str) -> str:
    """Return the name of data without the folders that it lies in."""
    return without_folders(dataset) if is_embedded(dataset) else Path(dataset).name


def is_same(one: str, other: str) -> bool:
    """Return whether two names mean the same data: equal, or the same path of this machine."""
    return one == other or (
        not (is_embedded(one) or is_embedded(other))
        and Path(one).exists()
        and Path(one).resolve() == Path(other).resolve()
    )


class DataConfig(Config):
    """What a cascade trains on."""

    dataset: Annotated[
        str, Flag("ds", also=("data", "data_dir", "train_data_dir", "dataset_name"))
    ] = "shapes"
    """Training data: shapes, shapes:scenes, digits, a folder, a file or a hub id (docs/data.md)."""
    caption_column: Annotated[str, Flag("cc", also=("text_column",))] = CAPTION_COLUMN
    """Column of the captions, in data with columns; of the embedded data an attribute."""
    crop: Annotated[Crop, Flag("cr")] = CENTER
    """Crop of training images whose aspect ratio is not that of the last stage."""
    aspect_buckets: Annotated[bool, Flag("ab", also=("enable_bucket",))] = False
    """Images keep (nearly) their aspect ratios; each batch has one size."""
    flip: Annotated[bool, Flag("fl", also=("random_flip", "flip_aug"))] = False
    """Every second training image is mirrored; captions must not say left or right."""
    streaming: Annotated[bool, Flag("sr")] = False
    """Parquet files and the hub are read while training, not before."""
    where: Annotated[str | None, Flag("wh", also=("filter",))] = None
    """Condition on columns and image sides: "width >= 64 and style == 'noto'"."""
    epoch_size: PositiveInt = 8192
    """Images that count as one epoch of the endless embedded data."""
    train_valid_frac: Annotated[float, Field(gt=0.0, lt=1.0), Flag("f")] = 0.9
    """Training share where the data has no split of its own."""
    valid_num: Annotated[PositiveInt, Flag("vn")] = 512
    """Validation images."""
    max_samples: PositiveInt | None = None
    """Train on so many images only, drawn at random; all by default."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the train/validation split and of what ``max_samples`` draws."""
