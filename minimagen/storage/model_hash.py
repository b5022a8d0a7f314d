"""Which weights an image came from, by their bytes: names and paths do not matter."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from minimagen.checked import per_stage
from minimagen.errors import UserError
from minimagen.storage.diffusers import weight_files
from minimagen.storage.directory import Choice, Choices, TrainingDirectory, read_imagen_config
from minimagen.storage.pretrained import find_weights


def model_hash(directory: TrainingDirectory, weights: Choices = "final") -> str:
    """Return the SHA-256 of all weights that are sampled with, hexadecimal.

    Raises:
        UserError: Weights are missing.
    """
    digest = hashlib.sha256()
    for path in _files(directory, weights):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(directory: TrainingDirectory, weights: Choices) -> Iterable[Path]:
    config = read_imagen_config(directory.parameters)
    choices: list[Choice] = per_stage("`weights`", weights, len(config.stages))
    for i, name in enumerate(config.learner_names):
        choice = choices[i - config.first_stage] if i >= config.first_stage else "final"
        model = config.stages[i - config.first_stage].own_model if i >= config.first_stage else None
        if model is not None and not directory.weights(name).is_file():
            yield from weight_files(model)
            continue
        path = find_weights(directory, name, choice)
        yield from sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]


def find_model(
    wanted: str, weights: Sequence[Choice], where: Path, others: Iterable[Path] = ()
) -> TrainingDirectory:
    """Return the directory in ``where``, or among ``others``, whose weights have this hash.

    Raises:
        UserError: There is none.
    """
    folders = [path for path in sorted(where.iterdir()) if path.is_dir()]
    for path in [*folders, *others]:
        directory = TrainingDirectory(path)
        try:
            if directory.samples_images and model_hash(directory, weights) == wanted:
                return directory
        except UserError:  # without these weights, or damaged: not the one
            continue
    raise UserError(
        f"no model here has the weights that made the image (hash {wanted[:10] or 'unknown'}); "
        "give its `training_directory`"
    )
