"""The captions that an evaluation samples, and the real images that it compares with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from minimagen.config import DataConfig, ImagenConfig
from minimagen.config.cascade_sizes import trained_sizes
from minimagen.config.data import title_of
from minimagen.data.dataset import BadSampleError, Dataset, Samples
from minimagen.data.indexed import mixed
from minimagen.data.loading.batches import good_samples
from minimagen.data.open import open_again
from minimagen.errors import UserError
from minimagen.sample import Sample
from minimagen.shapes.dataset import embedded

KNOWN = 2048  # training images at most that copies are looked for among
PIXELS = 2**26  # of them at most, all together


@dataclass(frozen=True)
class Sets:
    """Real images of one size with their captions.

    Attributes:
        name: Of the data set.
        split: What ``held_out`` is of it.
        held_out: Not trained on; one for each image to sample.
        training: Trained on, many of them.
        level: Of the embedded data, the judge's name; empty for other data.
    """

    name: str
    split: str
    held_out: Sequence[Sample]
    training: Sequence[Sample]
    level: str = ""

    @property
    def title(self) -> str:
        """Return the name without the folders of this machine."""
        return title_of(self.name)

    @property
    def seen(self) -> list[Sample]:
        """Return training images, as many as there are of ``held_out``; few ones are repeated."""
        return list(islice(cycle(self.training), len(self.held_out)))

    @property
    def labels(self) -> list[str]:
        """Return the distinct captions if they are labels: few, each of several images."""
        captions = sorted({sample.caption for sample in self.training})
        return captions if 1 < len(captions) <= min(200, len(self.training) // 4) else []


def drawn_sets(data: DataConfig, split: str, size: int, count: int, seed: int) -> Sets:
    """Return ``count`` images of a split of the embedded data, and those that are trained on."""
    known = max(count, min(KNOWN, data.epoch_size, PIXELS // (3 * size * size)))
    options = {"size": size, "caption_column": data.caption_column}
    held_out = embedded(data.dataset, split=split, seed=seed, epoch_size=count, **options)
    training = embedded(data.dataset, split="train", seed=data.seed, epoch_size=known, **options)
    return Sets(data.dataset, split, list(held_out), list(training), held_out.key)


def read_sets(data: DataConfig, config: ImagenConfig, count: int) -> Sets:
    """Return images of any data set: ``count`` of its validation part, and its training part.

    They have the size of the last stage of the cascade that was trained on the data. Where the
    validation part is smaller, its images are repeated.

    Raises:
        UserError: there is no such data, or it is not usable.
    """
    size = config.image_sizes[-1]
    dataset = open_again(data, size, buckets=trained_sizes(config, data))
    training, validation = dataset.split(data.train_valid_frac, data.seed, count)
    if data.max_samples is not None:
        training = training.at_most(data.max_samples, data.seed)  # as the training took them
    held_out = list(good_samples(of_all_kinds(dataset, validation, data.seed), count))
    most = max(count, min(KNOWN, PIXELS // (3 * size[0] * size[1])))
    known = list(islice(_some(training.at_most(most, data.seed)), most))
    if len(known) < 2:
        raise UserError(f"{data.dataset} has fewer than two training images to compare")
    repeated = list(islice(cycle(held_out), count))
    return Sets(data.dataset, "validation", repeated, known)


def of_all_kinds(dataset: Dataset, validation: Samples, seed: int) -> Samples:
    """Return the validation images in a random order: the first of them are like the rest.

    A data set's own lie in the order of their names, class by class perhaps; what was divided is in
    a random order already.
    """
    own = dataset.validation
    if own is None or not own.repeatable:
        return validation
    return mixed(own, seed)


def _some(training: Dataset) -> Iterator[Sample]:
    if training.repeatable:
        yield from good_samples(training, len(training))
        return
    drawn = training.samples(0, 0, 1)
    yield from (each for each in drawn if not isinstance(each, BadSampleError))
