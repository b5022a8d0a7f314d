"""The training and the validation part of a data set."""

from dataclasses import dataclass
from random import Random

from minimagen.config import Size
from minimagen.data.dataset import CaptionedDataset, draw
from minimagen.data.images.buckets import Buckets
from minimagen.data.images.dataset import PictureDataset
from minimagen.data.images.stream import PictureStream, TrainingData
from minimagen.data.loading.permutation import Permutation
from minimagen.errors import UserError
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset


@dataclass(frozen=True)
class Part:
    """Some rows of a shuffled data set."""

    dataset: CaptionedDataset
    order: Permutation
    rows: range

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return one row."""
        return self.dataset[self.order[self.rows[index]]]

    def draw(self, index: int, rng: Random) -> Sample:
        """Return one row with what it leaves open drawn with ``rng``."""
        return draw(self.dataset, self.order[self.rows[index]], rng)


def at_most(dataset: TrainingData, count: int | None, seed: int = 0) -> TrainingData:
    """Return ``count`` rows drawn at random, or all: where there are fewer, or nobody has counted.

    Drawn data and streams are returned as they are.
    """
    if count is None or isinstance(dataset, ShapesDataset | PictureStream):
        return dataset
    if count >= len(dataset):
        return dataset
    if isinstance(dataset, Buckets):
        return _at_most_in_all(dataset, count, seed)
    return Part(dataset, Permutation(len(dataset), "at most", seed), range(count))


def _at_most_in_all(buckets: Buckets, count: int, seed: int) -> Buckets:
    """Return ``count`` rows of all buckets together, of each its share."""
    parts: dict[Size, CaptionedDataset] = {}
    seen = kept = 0
    for size, part in buckets.parts.items():
        seen += len(part)
        more = count * seen // len(buckets) - kept
        order = Permutation(len(part), "at most", seed)
        parts[size], kept = Part(part, order, range(more)), kept + more
    return Buckets(parts, buckets.validation)


def split_train_valid(
    dataset: TrainingData, fraction: float = 0.9, seed: int = 0, count: int = 512
) -> tuple[TrainingData, CaptionedDataset]:
    """Return the training and the validation part of a data set.

    The embedded data validates on its `tune` split and data with its own validation set on that;
    anything else is divided at random, all captions of a picture on the same side.

    Args:
        dataset: from `load_dataset`, or your own.
        fraction: the training share, in (0, 1), where the data has no split of its own.
        seed: of the random division.
        count: the largest number of pictures that a stream's validation part holds.

    Raises:
        UserError: the fraction is out of range, or there are fewer than two pictures.
    """
    if isinstance(dataset, ShapesDataset):
        tune = ShapesDataset("tune", dataset.level, dataset.size, dataset.seed, dataset.epoch_size)
        return dataset, tune
    if isinstance(dataset, PictureStream):
        return dataset.split(fraction, count)
    if isinstance(dataset, PictureDataset | Buckets) and dataset.validation is not None:
        return dataset, dataset.validation
    length = len(dataset)
    if not 0 < fraction < 1 or length < 2:
        raise UserError(
            f"cannot divide {length} pictures with a training share of {fraction}: give at "
            "least 2 pictures and a share between 0 and 1, such as 0.9"
        )
    if isinstance(dataset, Buckets):
        pairs = {size: _divided(part, fraction, seed) for size, part in dataset.parts.items()}
        validation = Buckets({size: pair[1] for size, pair in pairs.items()})
        order = Permutation(len(validation), "mixed", seed)  # its first rows are of all sizes
        rows = Part(validation, order, range(len(validation)))
        return Buckets({size: pair[0] for size, pair in pairs.items()}), rows
    return _divided(dataset, fraction, seed)


def _divided(dataset: CaptionedDataset, fraction: float, seed: int) -> tuple[Part, Part]:
    """Divide two or more rows at random; each side has at least one."""
    length = len(dataset)
    order = Permutation(length, "split", seed)
    kept = min(max(round(fraction * length), 1), length - 1)
    return Part(dataset, order, range(kept)), Part(dataset, order, range(kept, length))
