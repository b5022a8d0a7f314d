"""The training directory: names and finds everything in it (see docs/architecture.md)."""

import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minimagen.config import AutoencoderConfig, ClipConfig, DataConfig, ImagenConfig, TrainingConfig
from minimagen.config.kinds import read_stage
from minimagen.config.training import with_learners
from minimagen.errors import UserError
from minimagen.storage.diffusers import completed, imported, names_model
from minimagen.storage.files import read_json, write_json
from minimagen.storage.hub import is_on_hub, located
from minimagen.storage.minimagen_parameters import is_minimagen, read_minimagen_values


class Parameters(NamedTuple):
    """The full configuration of a run."""

    imagen: ImagenConfig
    training: TrainingConfig
    data: DataConfig


STAGES = ("unet", "gpt")
LEARNER = re.compile(r"clip|autoencoder_\d+|unet_\d+|gpt_\d+")
"""The name of what is trained, and of its file of parameters."""

Choice = str | int
"""Which averaged weights: ``final``, ``best`` (lowest validation loss), or those after so many
steps, whose checkpoint is kept."""
Choices = Choice | Sequence[Choice]
"""Of all stages, or one each."""


def read_choice(value: Choice) -> Choice:
    """Return which weights are meant.

    Raises:
        ValueError: It is none of them.
    """
    if value in ("final", "best"):
        return value
    if str(value).isdecimal():
        return int(value)
    raise ValueError("must be final, best or the step of a kept checkpoint, such as 500")


class TrainingDirectory:
    """``training_<stamp>/``: parameters, state_dicts, tmp, samples, logs, maybe a teacher.

    Attributes:
        is_fetched: It is the local copy of a repository of the hub.
    """

    def __init__(self, path: str | Path, is_fetched: bool = False) -> None:
        self.path, self.is_fetched = Path(path), is_fetched
        self.parameters = self.path / "parameters"
        self.state_dicts = self.path / "state_dicts"
        self.tmp = self.path / "tmp"
        self.samples = self.path / "samples"
        self.teacher = self.path / "teacher"
        self.progress = self.path / "training_progress.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.environment = self.path / "environment.json"
        self.sample_captions = self.samples / "captions.txt"

    def __str__(self) -> str:
        return str(self.path)

    def make(self) -> None:
        """Make the folders that are missing."""
        for folder in (self.parameters, self.state_dicts, self.tmp, self.samples):
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def open(cls, path: str | Path) -> "TrainingDirectory":
        """Return an existing one; a UserError if it is missing, empty, or without parameters.

        A model of diffusers' is one too, whose parameters are in the cache, and so is a repository
        of the hub, ``owner/name`` or ``owner/name@revision``.
        """
        directory = cls(path)
        if (parameters := imported(path)) is not None:
            directory.parameters = parameters
            return directory
        if is_on_hub(path):
            directory = cls(located(path), is_fetched=True)
        if not directory.path.is_dir():
            raise UserError(f"no training directory {path}; give one that train.py made")
        if not any(directory.path.iterdir()):
            raise UserError(f"training directory {path} is empty; give one that train.py made")
        if is_minimagen(directory.parameters):
            raise UserError(
                f"{path} was made by AssemblyAI's MinImagen, whose weights are not read; train "
                f"its cascade anew from `parameters` {directory.parameters}"
            )
        if not directory.has_parameters:
            raise UserError(f"{path} is not a training directory: it has no parameters/imagen.json")
        return directory

    @classmethod
    def newest(
        cls, where: str | Path = ".", otherwise: str | Path | None = None
    ) -> "TrainingDirectory":
        """Return the newest training directory in ``where`` that has stages, all of them trained.

        The newest is the one whose training went on last, whatever was found out about it since.

        Where there is none, return ``otherwise`` if it has them; else this is a UserError.
        """
        found = sorted(
            (path for path in Path(where).glob("training_*") if cls(path).samples_images),
            key=lambda path: (cls(path).changed, path.name),
        )
        if not found and otherwise is not None and cls(otherwise).is_trained:
            return cls.open(otherwise)
        if not found:
            raise UserError(
                "no training directory with trained weights here; train one with "
                "python train.py, or name one as `training_directory`"
            )
        return cls.open(found[-1])

    @classmethod
    def chosen(cls, given: str | Path | None, begun: bool = False) -> "TrainingDirectory":
        """Return the one that is given, or the newest one here; a UserError as in both.

        With ``begun`` a run that is going on counts too, and one that makes no images.
        """
        if given is not None:
            return cls.open(given)
        runs = [cls(path) for path in Path().glob("training_*") if begun]
        runs = [run for run in runs if run.has_parameters]
        if runs := [run for run in runs if run.progress.is_file()]:
            return cls.open(max(runs, key=lambda run: run.changed).path)
        return cls.newest()

    def results(self, given: Path | None, name: str = "", parameter: str = "`output`") -> Path:
        """Return where to write what is found out about it: ``given``, or ``name`` in its folder.

        Raises:
            UserError: It has no folder of its own, as it is of the hub; ``parameter`` is asked for.
        """
        if given is None and (self.is_fetched or not self.path.is_dir()):
            raise UserError(f"{self} is no folder to write into; give {parameter}")
        return given or self.path / name

    @property
    def changed(self) -> float:
        """When its training went on last, or it came here without one: seconds since 1970."""
        return (self.progress if self.progress.is_file() else self.parameters).stat().st_mtime

    @property
    def has_parameters(self) -> bool:
        """Whether it says what is trained: parameters/imagen.json is there."""
        return (self.parameters / "imagen.json").is_file()

    @property
    def is_trained(self) -> bool:
        """Whether there are weights of every learner."""
        files = [path for path in self.parameters.glob("*.json") if LEARNER.fullmatch(path.stem)]
        return len(files) > 0 and all(
            self.weights(path.stem).is_file() or names_model(path) for path in files
        )

    @property
    def samples_images(self) -> bool:
        """Whether it has stages, and weights of every learner: not a CLIP alone."""
        stages = [p for name in STAGES for p in self.parameters.glob(f"{name}_*.json")]
        return bool(stages) and self.is_trained

    def weights(self, name: str) -> Path:
        """Return where the averaged (EMA) weights of a learner are: the newest, at last the final.

        Here and below a learner has the name of its parameters' file, for a stage ``unet_<i>``.
        """
        return self.state_dicts / f"{name}.safetensors"

    def best_weights(self, name: str) -> Path:
        """Return where the averaged weights with the lowest validation loss are."""
        return self.state_dicts / f"{name}.best.safetensors"

    def checkpoint(self, name: str, step: int) -> Path:
        """Return where the checkpoint after ``step`` optimizer steps is."""
        return self.tmp / f"{self.checkpoint_prefix(name)}{step:08d}"

    def claim(self, name: str) -> Path:
        """Return the file that marks a learner as trained by a job."""
        return self.tmp / f"{name}_started"

    def checkpoint_prefix(self, name: str) -> str:
        """Return what the names of a learner's checkpoints begin with."""
        return f"{name}_step_"


def new_output(given: str | Path | None, prefix: str, parameter: str = "`output`") -> Path:
    """Return ``given``, or a new stamped one; a UserError unless it is missing or empty."""
    if given is None:
        return stamped(prefix)
    path = Path(given)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{parameter} {path} exists and is not empty; choose another name")
    return path


def stamped(prefix: str, where: Path = Path()) -> Path:
    """Make ``<prefix>_<YYYYMMDD_HHMMSS>`` (local time) in a folder, with a suffix if it exists."""
    name = f"{prefix}_{time.strftime('%Y%m%d_%H%M%S')}"
    for number in itertools.count(1):
        path = where / (name if number == 1 else f"{name}_{number}")
        try:
            path.mkdir()  # not exists(): two runs in the same second must not share it
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make {path} here: {error}") from None
        return path
    raise AssertionError("counting has no end")


def write_parameters(folder: Path, parameters: Parameters) -> None:
    """Write the full configuration: imagen.json, one file per learner, training.json, data.json."""
    write_imagen(folder, parameters.imagen)
    write_json(folder / "training.json", parameters.training)
    write_json(folder / "data.json", parameters.data)


def write_imagen(folder: Path, config: ImagenConfig) -> None:
    """Write the configuration of a cascade: imagen.json, and one file per learner."""
    imagen = config.model_dump(mode="json")
    if (clip := imagen.pop("clip")) is not None:
        write_json(folder / "clip.json", clip)
    for i, autoencoder in enumerate(imagen.pop("autoencoders")):
        write_json(folder / f"autoencoder_{i}.json", autoencoder)
    if not imagen["labels"]:
        del imagen["labels"]
    names = config.learner_names[config.first_stage :]
    for name, stage in zip(names, imagen.pop("stages"), strict=True):
        write_json(folder / f"{name}.json", stage)
    write_json(folder / "imagen.json", imagen)


def read_parameter_values(folder: Path) -> dict[str, Any]:
    """Return the parsed but unchecked files of a parameters directory that exist.

    One written by AssemblyAI's MinImagen is translated, with a notice in the log.

    Raises:
        UserError: If the folder or its imagen.json is missing.
    """
    if not folder.is_dir():
        raise UserError(f"no parameters directory {folder}")
    if is_minimagen(folder):
        return read_minimagen_values(folder)
    if not (folder / "imagen.json").is_file():
        inside = folder / "parameters"
        hint = f"; did you mean {inside}?" if (inside / "imagen.json").is_file() else ""
        raise UserError(f"{folder} has no imagen.json: it is not a parameters directory{hint}")
    imagen = read_json(folder / "imagen.json")
    stages: list[dict[str, Any]] = []
    while paths := [p for name in STAGES if (p := folder / f"{name}_{len(stages)}.json").is_file()]:
        stages.append(completed(read_json(paths[0])))
        read_stage(stages[-1], str(paths[0]))  # a mistake names its file
    if not isinstance(imagen, dict) or {"stages", "autoencoders", "clip"} & imagen.keys():
        raise UserError(
            f"{folder / 'imagen.json'}: the stages belong in unet_0.json ..., autoencoders in "
            "autoencoder_0.json ..., a CLIP in clip.json"
        )
    values: dict[str, Any] = {"imagen": imagen | {"stages": stages}}
    autoencoders: list[dict[str, Any]] = []
    while (path := folder / f"autoencoder_{len(autoencoders)}.json").is_file():
        autoencoders.append(read_json(path))
        AutoencoderConfig.read(autoencoders[-1], str(path))
    if autoencoders:
        values["imagen"]["autoencoders"] = autoencoders
    if (path := folder / "clip.json").is_file():
        values["imagen"]["clip"] = read_json(path)
        ClipConfig.read(values["imagen"]["clip"], str(path))  # a mistake names its file
    for name in ("training", "data"):
        if (path := folder / f"{name}.json").is_file():
            values[name] = read_json(path)
            if not isinstance(values[name], dict):
                raise UserError(f"{path} must be a JSON object of settings")
    if "training" in values:
        values["training"] = with_learners(values["training"])
    return values


def read_imagen_config(folder: Path) -> ImagenConfig:
    """Return the checked configuration of the cascade alone.

    Raises:
        UserError: If a file is missing, is not JSON, or a value is not valid; it names which.
    """
    return ImagenConfig.read(read_parameter_values(folder)["imagen"], str(folder / "imagen.json"))


def read_parameters(folder: Path) -> Parameters:
    """Return the checked configuration of a parameters directory.

    Raises:
        UserError: If a file is missing, is not JSON, or a value is not valid; it names which.
    """
    values = read_parameter_values(folder)
    for name in ("training", "data"):
        if name not in values:
            raise UserError(f"no such file: {folder / f'{name}.json'}")
    return Parameters(
        ImagenConfig.read(values["imagen"], str(folder / "imagen.json")),
        TrainingConfig.read(values["training"], str(folder / "training.json")),
        DataConfig.read(values["data"], str(folder / "data.json")),
    )
