"""One argument, `--DATASET`, to captioned pictures."""

from pathlib import Path

from minimagen.data.sample import CaptionedDataset
from minimagen.data.shapes import ShapesDataset
from minimagen.data.transforms import CROPS, Framing
from minimagen.errors import UserError, did_you_mean


def load_dataset(
    name_or_path: str | Path,
    size: tuple[int, int] = (64, 64),
    *,
    level: str = "simple",
    seed: int = 0,
    epoch_size: int = 20_000,
    caption_column: str = "text",
    crop: str = "centre",
    flip: bool = False,
) -> CaptionedDataset:
    """Open the data to train on.

    Args:
        name_or_path: "shapes" (the embedded data), "shapes:scenes" (its second level), or a
            folder or a metadata file, see `load_folder`. A folder called shapes is "./shapes".
        size: (height, width) of the pictures in pixels; the embedded data is square.
        level: of the embedded data, where the name does not say it.
        seed: of the embedded data.
        epoch_size: of the embedded data, pictures per epoch.
        caption_column: where the captions are, in data with columns.
        crop: of pictures of another aspect ratio in training, "centre" or "random".
        flip: mirror every second picture in training.

    Raises:
        UserError: there is no such data, or it is not usable.
    """
    name, _, named_level = str(name_or_path).partition(":")
    if name == "shapes":
        if size[0] != size[1]:
            raise UserError(f"shapes are square: {size[0]} x {size[1]} needs a folder of your own")
        return ShapesDataset("train", named_level or level, size[0], seed, epoch_size)
    if crop not in CROPS:
        raise UserError(
            f"crop {crop!r} is not one of {', '.join(CROPS)}{did_you_mean(crop, CROPS)}"
        )
    path, framing = Path(name_or_path), Framing(size, crop, flip)
    if path.is_dir() or path.is_file():
        from minimagen.data.folder import load_folder

        return load_folder(path, framing, caption_column)
    raise UserError(
        f"no data set {str(name_or_path)!r}: give shapes, shapes:scenes, or a folder with "
        "pictures and captions"
    )
