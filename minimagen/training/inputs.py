"""What the stages of a run learn from, are validated on and paint."""

from collections.abc import Sequence
from dataclasses import dataclass

from minimagen.config import DataConfig, ImagenConfig, TrainingConfig
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.data.dataset import CaptionedDataset
from minimagen.data.images.buckets import Buckets
from minimagen.data.images.stream import PictureStream, TrainingData
from minimagen.data.loading.batches import good_samples, validation_batches
from minimagen.data.loading.split import at_most, split_train_valid
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

    training: TrainingData
    encode: TextEncoder
    valid: Sequence[Batch]
    captions: Sequence[str]


def prepare_inputs(
    imagen: Imagen, dataset: TrainingData, data: DataConfig, config: TrainingConfig
) -> Inputs:
    """Divide the data, and put a cache before the encoder.

    Raises:
        UserError: The pictures are not of the last stage's size, or too few or too bad.
    """
    encode = imagen.text_encoder = _cached(imagen.text_encoder, dataset)
    training, validation = split_train_valid(
        dataset, data.train_valid_frac, data.seed, data.valid_num
    )
    _check_sizes(dataset, validation, imagen.config, data.aspect_buckets)
    valid = validation_batches(validation, encode, VALIDATED_AT_ONCE, data.valid_num)
    captions = config.sample_captions or [s.caption for s in good_samples(validation, ON_SHEET)]
    return Inputs(at_most(training, data.max_samples, data.seed), encode, valid, captions)


def _cached(encoder: TextEncoder, dataset: TrainingData) -> TextEncoder:
    """Return the encoder behind a cache: each caption once, and none that an earlier run had."""
    if isinstance(encoder, EmbeddingCache):
        return encoder
    return EmbeddingCache.on_disk(encoder, getattr(dataset, "endless", False))


def _check_sizes(
    dataset: TrainingData, validation: CaptionedDataset, config: ImagenConfig, several: bool
) -> None:
    """Raise a UserError unless the last stage paints such pictures, ``several`` sizes or one."""
    given = next(good_samples(validation, 1)).image.shape[:2]
    buckets = dataset.framing.buckets if isinstance(dataset, PictureStream) else ()
    if isinstance(dataset, Buckets):
        buckets = tuple(dataset.parts)
    if bool(buckets) != several:
        told = "buckets" if buckets else "pictures of one size"
        raise UserError(
            f"the data has {told} and DataConfig says aspect_buckets={several}: give load_dataset "
            "buckets=aspect_buckets(imagen.config) and DataConfig aspect_buckets=True, or neither"
        )
    last = config.image_sizes[-1]
    valid = aspect_buckets(config) if several else (last,)
    for size in (given, *buckets):
        if size not in valid:
            raise UserError(
                f"the pictures are {size[0]} x {size[1]}, the last stage paints {last}; "
                "load the data at that size"
            )
