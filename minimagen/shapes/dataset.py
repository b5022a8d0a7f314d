"""The embedded data sets: captioned images drawn on the fly, every attribute known.

An image is a function of (seed, split, index), so an epoch is a window on an endless stream and
any index can be drawn by any worker. Combinations of attributes are divided into three splits: none
of those in `heldout` is ever drawn in training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, Literal, NoReturn, Protocol, get_args

import numpy as np

from minimagen.config import Size
from minimagen.config.data import CAPTION_COLUMN, EPOCH_SIZE, ShapesLevel, ShapesSplit
from minimagen.draws import rng
from minimagen.errors import UserError, did_you_mean
from minimagen.sample import Sample
from minimagen.shapes import objects, scenes
from minimagen.shapes.digits import Digits

SPLITS, LEVELS = get_args(ShapesSplit), get_args(ShapesLevel)
NAMES = ("shapes", "shapes:scenes", "digits")
"""What the embedded data is called."""


class Drawing(Protocol):
    """What images a data set has."""

    @property
    def ATTRIBUTES(self) -> Sequence[str]:  # noqa: N802  # modules have it as a constant
        """Return the names of all attributes that images can have."""
        ...

    def attributes_for(self, split: str, rng: Random) -> dict[str, str]:
        """Draw the attributes of one image of a split."""
        ...

    def draw(self, attributes: Mapping[str, str], rng: Random, size: int, split: str) -> np.ndarray:
        """Draw an image, uint8 [size, size, 3]."""
        ...

    def caption_for(self, attributes: Mapping[str, str], rng: Random, split: str) -> str:
        """Return one of many wordings."""
        ...


@dataclass(frozen=True)
class _Level:
    """A level of the shapes: a module, whose images differ by their attributes alone."""

    module: ModuleType

    @property
    def ATTRIBUTES(self) -> Sequence[str]:  # noqa: N802
        names: Sequence[str] = self.module.ATTRIBUTES
        return names

    def attributes_for(self, split: str, rng: Random) -> dict[str, str]:
        attributes: dict[str, str] = self.module.attributes_for(split, rng)
        return attributes

    def draw(self, attributes: Mapping[str, str], rng: Random, size: int, split: str) -> np.ndarray:
        image: np.ndarray = self.module.draw(attributes, rng, size)
        return image

    def caption_for(self, attributes: Mapping[str, str], rng: Random, split: str) -> str:
        return str(self.module.caption_for(attributes, rng))


_LEVELS = {"simple": _Level(objects), "scenes": _Level(scenes)}


class DrawnDataset:
    """Captioned images without end, deterministic in (seed, split, index).

    `len()` is the number of images that count as an epoch; any index >= 0 can be drawn.

    Args:
        drawing: What there is to draw.
        name: What `load_dataset` opens it by.
        key: What the images depend on, beside split, seed and index.
        split: "train", "tune" or "heldout".
        size: the side of the images in pixels, at least 8.
        seed: another seed gives another stream of the same distribution.
        epoch_size: `len()`, at least 1.
        caption_column: "text", or the attribute whose value is the caption.
        content: What changes with the files that it is drawn from, if there are any.

    Raises:
        UserError: an option is not valid.
    """

    repeatable: Literal[True] = True
    endless = True  # training sees every index once instead of an epoch again and again
    validation = None  # `split` draws one

    def __init__(
        self,
        drawing: Drawing,
        name: str,
        key: str,
        split: str = "train",
        size: int = 64,
        seed: int = 0,
        epoch_size: int = EPOCH_SIZE,
        caption_column: str = CAPTION_COLUMN,
        content: str = "",
    ) -> None:
        kind = name.partition(":")[0]
        if split not in SPLITS:
            hint = did_you_mean(split, SPLITS)
            raise UserError(f"{kind}: split={split!r} is not one of {', '.join(SPLITS)}{hint}")
        if size < 8 or epoch_size < 1:
            raise UserError(
                f"{kind}: size={size}, epoch_size={epoch_size}: give size >= 8 and epoch_size >= 1"
            )
        columns = (CAPTION_COLUMN, *drawing.ATTRIBUTES)
        if caption_column not in columns:
            raise UserError(
                f"{kind} has no column {caption_column!r}{did_you_mean(caption_column, columns)}; "
                f"its columns are {', '.join(columns)}"
            )
        self.drawing, self.name, self.key = drawing, name, key
        self.split_name, self.size, self.seed = split, size, seed
        self.epoch_size, self.caption_column = epoch_size, caption_column
        self.content = content

    @property
    def description(self) -> dict[str, str | int | bool]:
        """Return what opens it again, by the name of ``DataConfig``'s field."""
        described: dict[str, str | int | bool] = {
            "dataset": self.name, "seed": self.seed, "epoch_size": self.epoch_size,
        }  # fmt: skip
        if self.caption_column != CAPTION_COLUMN:
            described["caption_column"] = self.caption_column
        return described

    @property
    def identity(self) -> str:
        """Return name and split, and what is in its files; the rest is in the description."""
        return f"{self.content or self.name} {self.split_name}"

    @property
    def sizes(self) -> dict[Size, int]:
        """Return the number of images in one epoch, by their one size."""
        return {(self.size, self.size): self.epoch_size}

    def __len__(self) -> int:
        """Return the number of images in one epoch."""
        return self.epoch_size

    def __iter__(self) -> Iterator[Sample]:
        """Draw one epoch."""
        return (self[index] for index in range(self.epoch_size))

    def __getitem__(self, index: int) -> Sample:
        """Draw the image and the caption of one index >= 0, also beyond the epoch."""
        attributes, caption, draws = self._described(index)
        image = self.drawing.draw(attributes, draws, self.size, self.split_name)
        return Sample(image, caption, attributes, str(int(index)))

    def draw(self, index: int, rng: Random) -> Sample:
        """Return ``self[index]``: an endless stream leaves nothing open."""
        return self[index]

    def of_split(self, split: str) -> "DrawnDataset":
        """Return the images of another split."""
        return DrawnDataset(
            self.drawing, self.name, self.key, split, self.size, self.seed, self.epoch_size,
            self.caption_column, self.content,
        )  # fmt: skip

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> "tuple[DrawnDataset, DrawnDataset]":
        """Return this data set, and the combinations of ``tune`` for validation."""
        return self, self.of_split("tune")

    def at_most(self, count: int, seed: int = 0) -> "DrawnDataset":
        """Return the whole stream: it has no end."""
        return self

    def rows(self) -> NoReturn:
        """Raise a UserError: there are no files."""
        raise UserError("the embedded data is drawn, not read: there is nothing to check")

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Go through one epoch without drawing images."""
        return ((self._described(index)[1],) for index in range(self.epoch_size))

    def _described(self, index: int) -> tuple[dict[str, str], str, Random]:
        """Return attributes, caption, and the generator that goes on to draw the image."""
        if index < 0:
            raise IndexError(f"index {index}: the stream starts at 0")
        # Python's generator: cheap to seed, and its stream is the same in every version.
        draws = rng(self.key, self.split_name, self.seed, int(index))
        attributes = self.drawing.attributes_for(self.split_name, draws)
        caption = self.drawing.caption_for(attributes, draws, self.split_name)
        if self.caption_column != CAPTION_COLUMN:
            caption = attributes.get(self.caption_column, "none")
        return attributes, caption, draws


class ShapesDataset(DrawnDataset):
    """Shapes: one object (``simple``), or relations, counts, digits and letters (``scenes``)."""

    def __init__(
        self,
        split: str = "train",
        level: str = "simple",
        size: int = 64,
        seed: int = 0,
        epoch_size: int = EPOCH_SIZE,
        caption_column: str = CAPTION_COLUMN,
    ) -> None:
        """Describe the stream; nothing is drawn yet.

        Args:
            split, size, seed, epoch_size, caption_column: Those of ``DrawnDataset``.
            level: "simple" (one object) or "scenes" (relations, counts, digits and letters).

        Raises:
            UserError: an option is not valid.
        """
        if level not in LEVELS:
            hint = did_you_mean(level, LEVELS)
            raise UserError(f"shapes: level={level!r} is not one of {', '.join(LEVELS)}{hint}")
        name = "shapes" if level == "simple" else f"shapes:{level}"
        super().__init__(_LEVELS[level], name, level, split, size, seed, epoch_size, caption_column)


class DigitsDataset(DrawnDataset):
    """A digit in a color on a solid or textured background; see ``shapes/digits.py``."""

    def __init__(self, split: str = "train", files: str = "", **options: Any) -> None:
        """Describe the stream, and read its files.

        Args:
            split: "train", "tune" or "heldout".
            files: Of real digits and materials, ``mnist=FILE,textures=FILE``; both are drawn by
                default.
            options: Others of ``DrawnDataset``: size, seed, epoch_size, caption_column.

        Raises:
            UserError: an option is not valid, or a file not usable.
        """
        drawing = Digits.of(files)
        parts = [part.partition("=") for part in files.split(",") if part]
        whole = ",".join(f"{key}={Path(file).absolute()}" for key, _, file in parts)
        name = f"digits:{whole}" if files else "digits"  # it holds in other working directories
        content = f"digits {drawing.content}" if files else ""
        super().__init__(drawing, name, "digits", split, content=content, **options)


def embedded(name: str, **options: Any) -> DrawnDataset:
    """Return the embedded data set called ``name``.

    Args:
        name: "shapes", "shapes:scenes", "digits" or "digits:mnist=FILE,textures=FILE".
        options: Those of ``DrawnDataset``: split, size, seed, epoch_size, caption_column.

    Raises:
        UserError: an option is not valid, or a file not usable.
    """
    kind, _, rest = name.partition(":")
    if kind == "digits":
        return DigitsDataset(files=rest, **options)
    return ShapesDataset(level=rest or "simple", **options)
