"""The embedded data set: captioned shapes drawn on the fly, every attribute known.

An image is a function of (seed, split, index), so an epoch is a window on an endless stream and
any index can be drawn by any worker. Combinations of color, shape and background color are
divided into three splits: none of those in `heldout` is ever drawn in training.
"""

from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Literal, NoReturn, get_args

from minimagen.config import Size
from minimagen.config.data import ShapesLevel, ShapesSplit
from minimagen.draws import rng
from minimagen.errors import UserError, did_you_mean
from minimagen.sample import Sample
from minimagen.shapes import objects, scenes

SPLITS, LEVELS = get_args(ShapesSplit), get_args(ShapesLevel)
_MODULES: dict[str, ModuleType] = {"simple": objects, "scenes": scenes}


def attribute_names(level: str) -> tuple[str, ...]:
    """Return the names of all attributes that images of a level can have."""
    return _MODULES[level].ATTRIBUTES


class ShapesDataset:
    """Captioned shapes without end, deterministic in (seed, split, index).

    `len()` is the number of images that count as an epoch; any index >= 0 can be drawn.
    """

    repeatable: Literal[True] = True
    endless = True  # training sees every index once instead of an epoch again and again
    validation = None  # `split` draws one

    def __init__(
        self,
        split: str = "train",
        level: str = "simple",
        size: int = 64,
        seed: int = 0,
        epoch_size: int = 20_000,
    ) -> None:
        """Describe the stream; nothing is drawn yet.

        Args:
            split: "train", "tune" or "heldout".
            level: "simple" (one object) or "scenes" (relations, counts, digits and letters).
            size: the side of the images in pixels, at least 8.
            seed: another seed gives another stream of the same distribution.
            epoch_size: `len()`, at least 1.

        Raises:
            UserError: an option is not valid.
        """
        for name, given, valid in (("split", split, SPLITS), ("level", level, LEVELS)):
            if given not in valid:
                hint = did_you_mean(given, valid)
                raise UserError(f"shapes: {name}={given!r} is not one of {', '.join(valid)}{hint}")
        if size < 8 or epoch_size < 1:
            raise UserError(
                f"shapes: size={size}, epoch_size={epoch_size}: give size >= 8 and epoch_size >= 1"
            )
        self._split, self.level, self.size = split, level, size
        self._name = "shapes" if level == "simple" else f"shapes:{level}"
        self.seed, self.epoch_size = seed, epoch_size

    @property
    def description(self) -> dict[str, str | int | bool]:
        """Return what opens it again, by the name of ``DataConfig``'s field."""
        return {"dataset": self._name, "seed": self.seed, "epoch_size": self.epoch_size}

    @property
    def identity(self) -> str:
        """Return level and split; what else its samples depend on is in the description."""
        return f"{self._name} {self._split}"

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
        image = _MODULES[self.level].draw(attributes, draws, self.size)
        return Sample(image, caption, attributes, str(int(index)))

    def draw(self, index: int, rng: Random) -> Sample:
        """Return ``self[index]``: an endless stream leaves nothing open."""
        return self[index]

    def split(
        self, fraction: float = 0.9, seed: int = 0, count: int = 512
    ) -> "tuple[ShapesDataset, ShapesDataset]":
        """Return this data set, and the combinations of ``tune`` for validation."""
        tune = ShapesDataset("tune", self.level, self.size, self.seed, self.epoch_size)
        return self, tune

    def at_most(self, count: int, seed: int = 0) -> "ShapesDataset":
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
        draws = rng(self.level, self._split, self.seed, int(index))
        level = _MODULES[self.level]
        attributes = level.attributes_for(self._split, draws)
        return attributes, level.caption_for(attributes, draws), draws
