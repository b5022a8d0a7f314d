"""The one place that makes autoencoders: those of a cascade, and frozen ones by name."""

from collections.abc import Sequence

from minimagen.autoencoders.autoencoder import Autoencoder
from minimagen.autoencoders.discrete import DiscreteAutoencoder
from minimagen.autoencoders.files import find_folder, load_folder
from minimagen.autoencoders.kl import KLAutoencoder
from minimagen.autoencoders.pixels import Pixels
from minimagen.autoencoders.tiny import TinyAutoencoder
from minimagen.autoencoders.training import TrainedAutoencoder
from minimagen.config import AutoencoderConfig, ImagenConfig
from minimagen.draws import seeded
from minimagen.errors import UserError
from minimagen.storage.directory import TrainingDirectory, read_imagen_config
from minimagen.storage.pretrained import find_weights, load_stage

KINDS: dict[str, type[KLAutoencoder | TinyAutoencoder | DiscreteAutoencoder]] = {
    "kl": KLAutoencoder,
    "tiny": TinyAutoencoder,
    "fsq": DiscreteAutoencoder,
    "gumbel": DiscreteAutoencoder,
}


def build_autoencoders(config: ImagenConfig, seed: int) -> list[TrainedAutoencoder]:
    """Return those of a cascade with fresh weights; those of number i depend on (seed, i) only."""
    made: list[TrainedAutoencoder] = []
    for i, each in enumerate(config.autoencoders):
        with seeded(seed, f"autoencoder_{i}", "weights"):
            made.append(KINDS[each.kind](i, each))
    return made


def build(
    given: int | str | None, own: Sequence[TrainedAutoencoder] = ()
) -> Autoencoder | TrainedAutoencoder:
    """Return the autoencoder of a stage.

    Args:
        given: None for the pixels themselves; the number of one of the cascade's own; a training
            directory, a folder of diffusers' or a hub id.
        own: Those that the cascade trains.

    Raises:
        UserError: there is no such autoencoder, or it is damaged.
    """
    if given is None:
        return Pixels()
    return own[given] if isinstance(given, int) else load(given)


def load(name: str) -> TrainedAutoencoder:
    """Return a trained autoencoder, frozen: a training directory, a diffusers folder or a hub id.

    Raises:
        UserError: there is no such autoencoder, or it is damaged.
    """
    folder = find_folder(name)
    if (directory := TrainingDirectory(folder)).has_parameters:
        return _of_directory(directory, name)
    return load_folder(folder)


def _of_directory(directory: TrainingDirectory, name: str) -> TrainedAutoencoder:
    configs = read_imagen_config(directory.parameters).autoencoders
    if not configs:
        raise UserError(f"{name} has no autoencoder: it needs parameters/autoencoder_0.json")
    return load_from(directory, configs[0])


def load_from(directory: TrainingDirectory, config: AutoencoderConfig) -> TrainedAutoencoder:
    """Return the first autoencoder of a training directory, frozen."""
    autoencoder = KINDS[config.kind](0, config)
    load_stage(autoencoder, find_weights(directory, autoencoder.name), autoencoder.own_identity)
    return autoencoder.eval().requires_grad_(False)
