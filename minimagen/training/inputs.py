"""What the stages of a run learn from, are validated on and paint."""

from collections.abc import Sequence
from dataclasses import dataclass

from minimagen.config import DataConfig, ImagenConfig, TrainingConfig
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.data.dataset import Dataset, Samples
from minimagen.data.loading.batches import good_samples, validation_batches
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.images import Batch
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.encoding import TextEncoder

VALIDATED_AT_ONCE = 32
ON_SHEET = 16  # captions of the validation set that are painted, where none are given


@dataclass
class Inputs:
    """What the stages learn from, are validated on and paint."""

    training: Dataset
    encode: TextEncoder
    valid: Sequence[Batch]
    captions: Sequence[str]


def prepare_inputs(
    imagen: Imagen, dataset: Dataset, data: DataConfig, config: TrainingConfig
) -> Inputs:
    """Divide the data, and put a cache before the encoder.

    Raises:
        UserError: The pictures are not of the last stage's size, or too few or too bad.
    """
    encode = imagen.text_encoder = _cached(imagen.text_encoder, dataset)
    training, validation = dataset.split(data.train_valid_frac, data.seed, data.valid_num)
    _check_sizes(dataset, validation, imagen.config, data.aspect_buckets)
    valid = validation_batches(validation, encode, VALIDATED_AT_ONCE, data.valid_num)
    captions = config.sample_captions or [s.caption for s in good_samples(validation, ON_SHEET)]
    if data.max_samples is not None:
        training = training.at_most(data.max_samples, data.seed)
    return Inputs(training, encode, valid, captions)


def _cached(encoder: TextEncoder, dataset: Dataset) -> TextEncoder:
    """Return the encoder behind a cache: each caption once, and none that an earlier run had."""
    if isinstance(encoder, EmbeddingCache):
        return encoder
    return EmbeddingCache.on_disk(encoder, dataset.endless)


def _check_sizes(
    dataset: Dataset, validation: Samples, config: ImagenConfig, several: bool
) -> None:
    """Raise a UserError unless the last stage generates such images, ``several`` sizes or one."""
    given = next(good_samples(validation, 1)).image.shape[:2]
    last = config.image_sizes[-1]
    valid = aspect_buckets(config) if several else (last,)
    for size in (given, *dataset.sizes):
        if size not in valid:
            raise UserError(
                f"the images are {size[0]} x {size[1]}, the last stage generates {last}; load the "
                "data at that size, or with buckets=aspect_buckets(imagen.config)"
            )
