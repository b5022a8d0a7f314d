"""What one may type: the options of configuration fields, generated from the fields, and others."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator

from minimagen.checked import Config, Flag, PositiveInt
from minimagen.cli.arguments import Option
from minimagen.config import DataConfig, ImagenConfig, TrainingConfig
from minimagen.storage.directory import read_choice

Chosen = Annotated[str, AfterValidator(read_choice)]


def field_options(config: type[Config], *path: str) -> Iterator[Option]:
    """Yield an option for each field with a ``Flag``, of ``config`` (at ``path``) and its parts."""
    for name, field in config.model_fields.items():
        for flag in field.metadata:
            if isinstance(flag, Flag):
                kind: Any = Annotated[(field.annotation, *field.metadata)]
                text = " ".join((field.description or "").split()).rstrip(".")
                yield Option(
                    flag.name or name.upper(),
                    flag.short,
                    text + "; one value, or one per stage" * ("*" in path),
                    kind | tuple[kind, ...] if "*" in path else kind,
                    field.default,
                    path=(*path, name),
                    also=(name, *flag.also),
                )
        stages = ("*",) if get_origin(field.annotation) is tuple else ()
        for inner in _configs(field.annotation):
            yield from field_options(inner, *path, name, *stages)


def _configs(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for part in get_args(annotation):
        yield from _configs(part)


SECTIONS: dict[str, type[Config]] = {
    "imagen": ImagenConfig,
    "training": TrainingConfig,
    "data": DataConfig,
}
CONFIGURED = {
    option.name: option
    for section, config in SECTIONS.items()
    for option in field_options(config, section)
}
"""The options of all configuration fields, by name; the default is the field's."""

DEVICE = Option("DEVICE", "dev", "Device: auto, cuda, cuda:1, mps or cpu", default="auto")
PRECISION = CONFIGURED["PRECISION"]
TRAINING_DIRECTORY = Option(
    "TRAINING_DIRECTORY",
    "d",
    "Directory that train.py or export made, or a model of diffusers': a folder, a repository of "
    "the hub (owner/name, owner/name@revision), IF-I,IF-II",
    Path,
    shown="the newest one here",
    also=("revision",),
)
WEIGHTS = Option(
    "WEIGHTS", "w", "Averaged weights: final, best (lowest validation loss), or the step of a "
    "kept checkpoint; one value, or one per stage", Chosen | tuple[Chosen, ...], "final",
    also=("ckpt",),
)  # fmt: skip
SAMPLING = tuple(
    option.but(default=None, shown="the stage's own")
    for option in CONFIGURED.values()
    if "sampling" in option.path
)


def sampling_changes(arguments: Any) -> dict[str, Any]:
    """Return the sampling settings that were typed, as ``Imagen.samplings`` takes them."""
    return {str(option.path[-1]): getattr(arguments, option.name) for option in SAMPLING}


def without_flag(argv: Sequence[str]) -> list[str]:
    """Return arguments without ``-d`` before the directory, where that is an argument by itself."""
    first = argv[0].replace("_", "-").upper() if argv and argv[0].startswith("-") else ""
    return [*argv[1:]] if first in ("-D", "--TRAINING-DIRECTORY") else [*argv]


CAPTION_COLUMN = CONFIGURED["CAPTION_COLUMN"].but(
    default=None, shown="that of the training, or text"
)
IMG_SIDE_LEN = Option(
    "IMG_SIDE_LEN", "s", "Longer side of the final images in px; all stages scale with it",
    PositiveInt, also=("image_sizes", "image_size", "resolution", "width", "height"),
)  # fmt: skip
