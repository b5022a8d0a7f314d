"""What a cascade trains on."""

from typing import Annotated, Literal

from pydantic import Field

from minimagen.checked import Config, PositiveInt


class DataConfig(Config):
    """What a cascade trains on."""

    dataset: str = "shapes"
    """``shapes``, ``shapes:scenes``, or what ``load_dataset`` takes."""
    caption_column: str = "text"
    """Where the captions are, in data with columns."""
    crop: Literal["centre", "random"] = "centre"
    """Of training pictures whose aspect ratio is not that of the last stage."""
    aspect_buckets: bool = False
    """Train on pictures of other aspect ratios in (nearly) their own, each batch of one size."""
    flip: bool = False
    """Mirror every second training picture; captions that say left and right then lie."""
    streaming: bool = False
    """Read parquet files and the hub while training instead of before."""
    epoch_size: PositiveInt = 8192
    """Pictures that count as one epoch of the endless embedded data."""
    train_valid_frac: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """Training share where the data has no split of its own."""
    valid_num: PositiveInt = 512
    max_samples: PositiveInt | None = None
    """Train on so many pictures only, drawn at random; all by default."""
    seed: Annotated[int, Field(ge=0)] = 0
