"""Preset < parameters directory < command line: the values of a run, each with its source."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minimagen.checked import Config, per_stage
from minimagen.cli.arguments import KeyPath, is_given
from minimagen.config import (
    DataConfig,
    DiffusersSamplingConfig,
    ImagenConfig,
    SamplingConfig,
    TokenSamplingConfig,
    TrainingConfig,
)
from minimagen.config.data import is_same
from minimagen.errors import UserError
from minimagen.storage.directory import (
    Parameters,
    TrainingDirectory,
    read_imagen_config,
    read_parameter_values,
)
from minimagen.text.names import DIFFUSERS, is_short


def _shipped(name: str) -> Path:
    """Return a folder that the wheel has in the package, and a clone beside it."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


PRESETS = _shipped("parameters")
DEMO, TESTING = PRESETS, PRESETS / "testing"
LENGTHS = ("EPOCHS", "STEPS", "MINUTES")
BUNDLED = _shipped("pretrained") / "emoji"  # sampled from where nothing was trained


OWN_SAMPLING: dict[str, type[Config]] = {
    "tokens": TokenSamplingConfig,
    "diffusers": DiffusersSamplingConfig,
}
"""The sampling settings of kinds of stages that have their own."""


class Settings:
    """The values of ``imagen``, ``training`` and ``data``, each with its source."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values: dict[str, Any] = {}
        self._sources: dict[KeyPath, str] = {}
        self.overlay(values, source)

    def has(self, section: str) -> bool:
        """Return whether there are values of ``section``; those of a foreign model have no data."""
        return (section,) in self._sources

    def overlay(self, values: Mapping[str, Any], source: str) -> None:
        """Replace whole sections by ``values``."""
        for section, content in values.items():
            self.set((section,), content, source)

    def set(self, path: KeyPath, value: Any, source: str) -> None:
        """Set one value; where ``path`` holds ``"*"`` every stage's, to its own of a tuple."""
        holder: Any = self._values
        for at, part in enumerate(path[:-1]):
            if part == "*":
                if not holder:
                    raise UserError(f"{source} is a setting of stages, and there are none")
                values, rest = per_stage(source, value, len(holder)), path[at + 1 :]
                having = [i for i in range(len(holder)) if _has(holder[i], rest)]
                for i in having or range(len(holder)):
                    self.set((*path[:at], i, *rest), values[i], source)
                return
            holder = holder[part] if isinstance(part, int) else holder.setdefault(part, {})
        holder[path[-1]] = value
        outside = {p: of for p, of in self._sources.items() if p[: len(path)] != path}
        self._sources = outside | {path: source}

    def write_out_stages(self) -> None:
        """Give every stage training settings of its own, so that each can be changed."""
        parameters = self.parameters()
        count, entries = len(parameters.imagen.learner_names), parameters.training.learners
        if len(entries) != count and len(entries) <= 1:
            stages = [entries[0].model_dump() if entries else {} for _ in range(count)]
            self.set(("training", "learners"), stages, "default")

    def parameters(self) -> Parameters:
        """Return the checked configuration."""
        values = self._values
        where = {name: f"{name} settings from {self._sources[name,]}" for name in values}
        return Parameters(
            ImagenConfig.read(values["imagen"], where["imagen"]),
            TrainingConfig.read(values["training"], where["training"]),
            DataConfig.read(values["data"], where["data"]),
        )

    def table(self, parameters: Parameters) -> str:
        """Return one line per value of ``parameters``: name, value, source."""
        given, lines = dict(leaves(self._values)), []
        for section, config in parameters._asdict().items():
            for path, value in leaves(config.model_dump(mode="json"), (section,)):
                parents = (path[:n] for n in range(len(path), 0, -1))
                source = next(self._sources[p] for p in parents if p in self._sources)
                source = source if path in given else "default"
                lines.append(f"{'.'.join(map(str, path))} = {value!r}  ({source})")
        return "\n".join(lines)


def add_minutes(settings: Settings, arguments: argparse.Namespace) -> None:
    """Let the chosen learners of a resumed run go on for so many minutes more."""
    parameters = settings.parameters()
    imagen, stages, learners = parameters.imagen, arguments.STAGES, arguments.LEARNERS
    chosen = imagen.chosen_learners(stages, learners)
    teacher = TrainingDirectory(arguments.RESTART_DIRECTORY).teacher
    if teacher.is_dir() and stages is None and learners is None:
        pairs = zip(imagen.stages, read_imagen_config(teacher / "parameters").stages, strict=True)
        taught = [i for i, (own, before) in enumerate(pairs) if own.kind != before.kind]
        chosen = [imagen.first_stage + i for i in taught]  # others have nothing to learn
    training = parameters.training.extended(arguments.MINUTES, chosen).model_dump(mode="json")
    for name in ("steps", "epochs", "minutes", "revisions"):
        settings.set(("training", name), training[name], "--MINUTES")


def fill_in(settings: Settings, arguments: argparse.Namespace, name: str) -> None:
    """Add what a cascade that was shared has not: the data and the length are those given."""
    if not settings.has("data"):
        if not is_given(arguments, "DATASET"):
            source = getattr(arguments, name)
            raise UserError(f"--{name} {source} has no data of its own: give --DATASET")
        settings.set(("data",), {}, "default")
    if not settings.has("training"):
        if not arguments.TESTING:
            check_length(name, arguments)
        settings.set(("training",), {"steps": 1}, "default")


def check_length(name: str, arguments: argparse.Namespace) -> None:
    """Raise a UserError unless the length of what ``--NAME`` trains is given."""
    if not any(is_given(arguments, length) for length in LENGTHS):
        raise UserError(f"--{name} needs a length; give one of --{', --'.join(LENGTHS)}")


def forget_data(settings: Settings, arguments: argparse.Namespace, trained: bool = False) -> None:
    """Reset what belongs to the data of the settings, where ``--DATASET`` names other data.

    Args:
        settings: They are changed.
        arguments: What was typed.
        trained: They are those of a training: its share for validation, its flips and the captions
            of its sheets were chosen for its data.
    """
    own = settings.parameters().data.dataset
    if not is_given(arguments, "DATASET") or is_same(arguments.DATASET, own):
        return
    defaults = DataConfig()
    of_training = ("train_valid_frac", "flip") if trained else ()
    for field in ("caption_column", "where", "max_samples", "streaming", *of_training):
        settings.set(("data", field), getattr(defaults, field), "--DATASET")
    if trained and settings.has("training"):
        settings.set(("training", "sample_captions"), [], "--DATASET")


def name_encoder_of_clip(settings: Settings, name: str) -> None:
    """Let a CLIP that is trained alone read captions with the text encoder called ``name``."""
    imagen = settings.parameters().imagen
    if imagen.clip is not None and not imagen.stages and imagen.clip.text.kind == "locked":
        settings.set(("imagen", "clip", "text", "encoder"), name, "--T5_NAME")


def with_whole_paths(parameters: Parameters) -> Parameters:
    """Return the parameters with parts that are folders here by names that hold everywhere."""

    def whole(name: str) -> str:
        return str(Path(name).absolute()) if Path(name).is_dir() else name

    def whole_encoder(name: str) -> str:
        if name.startswith(DIFFUSERS):
            return DIFFUSERS + whole(name.removeprefix(DIFFUSERS))
        return name if is_short(name) else whole(name)

    imagen = parameters.imagen
    stages = [
        stage.replace(autoencoder=whole(stage.autoencoder))
        if isinstance(stage.autoencoder, str)
        else stage
        for stage in imagen.stages
    ]
    clip = imagen.clip
    if clip is not None:
        clip = clip.replace(text=clip.text.replace(encoder=whole_encoder(clip.text.encoder)))
    encoder = whole_encoder(imagen.text_encoder_name)
    imagen = imagen.replace(stages=stages, text_encoder_name=encoder, clip=clip)
    return parameters._replace(imagen=imagen)


def _has(stage: Mapping[str, Any], path: KeyPath) -> bool:
    """Return whether a stage of this kind has the setting at ``path``."""
    sampling = OWN_SAMPLING.get(stage.get("kind", ""), SamplingConfig)
    return path[0] != "sampling" or path[1] in sampling.model_fields


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the values inside nested dictionaries and lists of them, each with its path."""
    of_parts = isinstance(value, list) and value and isinstance(value[0], dict)
    parts = dict(enumerate(value)) if of_parts else value
    if not isinstance(parts, dict) or not parts:
        yield path, value
        return
    for key, part in parts.items():
        yield from leaves(part, (*path, key))


def values_at(parameters: Parameters, path: KeyPath) -> Any:
    """Return the value at ``path``; where that holds ``"*"`` every stage's, if they differ.

    None where no stage has it.
    """
    values: list[Any] = [parameters._asdict()[str(path[0])].model_dump(mode="json")]
    for part in path[1:]:
        values = (
            [v for x in values for v in x]
            if part == "*"
            else [x[part] for x in values if not isinstance(x, dict) or part in x]
        )
    if not values:
        return None
    return values if any(value != values[0] for value in values) else values[0]


def saved_settings(path: Path) -> Settings:
    """Return the values of the training directory at ``path``."""
    directory = TrainingDirectory.open(path)
    return Settings(read_parameter_values(directory.parameters), str(directory))


def bundled_cascades() -> list[Path]:
    """Return the trained cascades that come with the package."""
    return sorted(f for f in BUNDLED.parent.glob("*") if TrainingDirectory(f).is_trained)


def read_settings(folder: Path | None, testing: bool, source: Path | None = None) -> Settings:
    """Return the values of ``folder``, over the demo preset (or the tiny one, if ``testing``).

    A folder that does not exist may be the name of a preset. A ``source``, a training directory,
    takes the place of the demo preset.

    Raises:
        UserError: If there is neither such a folder nor such a preset, or a value is not valid.
    """
    preset = TESTING if testing and folder is None else DEMO
    if not (preset / "imagen.json").is_file():
        raise UserError(f"the presets are missing at {PRESETS}: install minimagen-cascade again")
    name = "the testing preset" if preset == TESTING else "the demo preset"
    settings = Settings(read_parameter_values(preset), name)
    if source is not None:
        settings = saved_settings(source)
    if folder is not None:
        folder = _preset(folder)
        values = read_parameter_values(folder)
        settings.overlay(values, str(folder))
        if "training" not in values:  # its stages are those of the preset's cascade
            settings.set(("training", "learners"), [], "default")
    return settings


def _preset(folder: Path) -> Path:
    """Return ``folder``, or the preset of that name where there is no such folder."""
    presets = {path.parent.name: path.parent for path in sorted(PRESETS.glob("*/imagen.json"))}
    if folder.exists():
        return folder
    if str(folder) not in presets:
        raise UserError(
            f"no parameters directory {folder}; give a folder with an imagen.json, or the name of "
            f"a preset ({', '.join(presets)})"
        )
    return presets[str(folder)]
