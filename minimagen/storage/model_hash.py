"""Which weights an image came from: names, paths and when they were saved do not matter."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from minimagen.checked import per_stage
from minimagen.errors import UserError, first_line
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
        digest.update(_tensors_hash(path))
    return digest.hexdigest()


def _tensors_hash(path: Path) -> bytes:
    """Return the hash of a safetensors file but for its metadata, such as the step.

    The file is the length of its header, 8 bytes, the header in JSON, and the tensors' bytes.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise UserError(f"{path} is damaged: no safetensors file")
        try:
            described = json.loads(file.read(length))
            described.pop("__metadata__", None)
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {first_line(error)}") from None
        digest.update(json.dumps(described, sort_keys=True).encode())
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()


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


def model_among(
    wanted: str, weights: Sequence[Choice], folders: Iterable[Path]
) -> TrainingDirectory | None:
    """Return the first of some training directories whose weights have this hash, if one has."""
    for path in folders:
        directory = TrainingDirectory(path)
        try:
            if directory.samples_images and model_hash(directory, weights) == wanted:
                return directory
        except (UserError, OSError):  # without these weights, damaged, or not to be read
            continue
    return None


def find_model(
    wanted: str, weights: Sequence[Choice], where: Path, others: Iterable[Path] = ()
) -> TrainingDirectory:
    """Return the directory in ``where``, or among ``others``, whose weights have this hash.

    Raises:
        UserError: There is none.
    """
    folders = [path for path in sorted(where.iterdir()) if path.is_dir()]
    found = model_among(wanted, weights, [*folders, *others])
    if found is None:
        raise UserError(
            f"no model here has the weights that made the image (hash {wanted[:10] or 'unknown'}); "
            "give its `training_directory`"
        )
    return found
