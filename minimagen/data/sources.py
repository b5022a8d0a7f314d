"""One argument, `--DATASET`, to captioned pictures, and their training and validation parts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minimagen.data.folder import FolderDataset, load_folder
from minimagen.data.sample import CaptionedDataset, Sample
from minimagen.data.shapes import ShapesDataset
from minimagen.errors import UserError


def load_dataset(
    name_or_path: str | Path,
    size: tuple[int, int] = (64, 64),
    *,
    level: str = "simple",
    seed: int = 0,
    epoch_size: int = 20_000,
) -> CaptionedDataset:
    """Open the data to train on.

    Args:
        name_or_path: "shapes" (the embedded data), "shapes:scenes" (its second level), or a
            folder, see `load_folder`. A folder called shapes is "./shapes".
        size: (height, width) of the pictures in pixels; the embedded data is square.
        level: of the embedded data, where the name does not say it.
        seed: of the embedded data.
        epoch_size: of the embedded data, pictures per epoch.

    Raises:
        UserError: there is no such data, or it is not usable.
    """
    name, _, named_level = str(name_or_path).partition(":")
    if name == "shapes":
        if size[0] != size[1]:
            raise UserError(f"shapes are square: {size[0]} x {size[1]} needs a folder of your own")
        return ShapesDataset("train", named_level or level, size[0], seed, epoch_size)
    if not Path(name_or_path).is_dir():
        raise UserError(
            f"no data set {str(name_or_path)!r}: give shapes, shapes:scenes, or a folder with "
            "pictures and captions"
        )
    return load_folder(name_or_path, size)


@dataclass(frozen=True)
class Subset:
    """Some rows of a data set."""

    dataset: CaptionedDataset
    indices: Sequence[int]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Return one row."""
        return self.dataset[self.indices[index]]


def split_train_valid(
    dataset: CaptionedDataset, fraction: float = 0.9, seed: int = 0
) -> tuple[CaptionedDataset, CaptionedDataset]:
    """Return the training and the validation part of a data set.

    The embedded data validates on its `tune` split and a folder with its own validation set on
    that; anything else is divided at random, all captions of a picture on the same side.

    Args:
        dataset: from `load_dataset`, or your own.
        fraction: the training share, in (0, 1), where the data has no split of its own.
        seed: of the random division.

    Raises:
        UserError: the fraction is out of range, or there are fewer than two pictures.
    """
    if isinstance(dataset, ShapesDataset):
        tune = ShapesDataset("tune", dataset.level, dataset.size, dataset.seed, dataset.epoch_size)
        return dataset, tune
    if isinstance(dataset, FolderDataset) and dataset.validation is not None:
        return dataset, dataset.validation
    pictures = _pictures_of_rows(dataset)
    order = list(dict.fromkeys(pictures))
    if not 0 < fraction < 1 or len(order) < 2:
        raise UserError(
            f"cannot divide {len(order)} pictures with a training share of {fraction}: give at "
            "least 2 pictures and a share between 0 and 1, such as 0.9"
        )
    random.Random(seed).shuffle(order)
    kept = set(order[: min(max(round(fraction * len(order)), 1), len(order) - 1)])
    train = [row for row, picture in enumerate(pictures) if picture in kept]
    valid = [row for row, picture in enumerate(pictures) if picture not in kept]
    return Subset(dataset, train), Subset(dataset, valid)


def _pictures_of_rows(dataset: CaptionedDataset) -> list[Path] | list[int]:
    """Return what tells which rows show the same picture."""
    if isinstance(dataset, FolderDataset):
        return [row.file for row in dataset.rows]
    return list(range(len(dataset)))
