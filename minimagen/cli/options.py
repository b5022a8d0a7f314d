"""What one may type: options, those of configuration fields generated from the fields."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from minimagen.checked import Config, Flag, PositiveInt
from minimagen.config import DataConfig, ImagenConfig, TrainingConfig
from minimagen.errors import UserError
from minimagen.storage.directory import read_choice

KeyPath = tuple[str | int, ...]
Chosen = Annotated[str, AfterValidator(read_choice)]


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: ``BATCH_SIZE`` is typed ``--BATCH_SIZE``, ``--batch-size`` or ``--batch_size``.
        short: Its short form, without the dash.
        help: What it is.
        type: Annotation that the value is checked against; bool makes a switch, a tuple takes
            values with commas between them.
        default: Its value where it is not given.
        shown: What the help shows as the default, instead of ``default``.
        path: Of the configuration value that it sets; ``"*"`` stands for every stage.
        also: Other names of it, in Python or in other programs; for hints.
        alone: Its value where it is given without one; None where that is an error.
        several: Whether it takes several values, with spaces between them.
    """

    name: str
    short: str
    help: str
    type: Any = str
    default: Any = None
    shown: str | None = None
    path: KeyPath = ()
    also: tuple[str, ...] = ()
    alone: Any = None
    several: bool = False

    but = dataclasses.replace

    @property
    def is_switch(self) -> bool:
        """Return whether it takes no value."""
        return _plain(self.type) is bool

    @property
    def keywords(self) -> dict[str, Any]:
        """Return what ``add_argument`` takes beside the names."""
        default = self.shown or shown(bool(self.default) if self.is_switch else self.default)
        common = {"dest": self.name, "help": f"{self.help} [{default}]".replace("%", "%%")}
        if self.is_switch:
            return common | {"action": "store_true"}
        kind = _plain(self.type)
        letters = {int: "N", float: "X", Path: "PATH"}
        values = f"{{{','.join(get_args(kind))}}}" if get_args(kind) else letters.get(kind, "TEXT")
        if self.several:
            common |= {"nargs": "+"}
        if self.alone is not None:
            common |= {"nargs": "?", "const": self.alone}
        return common | {"metavar": values, "default": self.default, "type": self.parse}

    def parse(self, text: str) -> Any:
        """Return the value of ``text``.

        Raises:
            UserError: It is not valid; the message says what is.
        """
        parts = [part.strip() for part in text.split(",")]
        is_list = get_origin(self.type) is tuple or len(parts) > 1
        value = parts if is_list and _takes_several(self.type) else text
        try:
            adapter = TypeAdapter(self.type, config=ConfigDict(allow_inf_nan=False))
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[-1 if isinstance(value, list) else 0]
            message = first["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
            given = first["input"]
            raise UserError(f"--{self.name} {message}, given {given!r}") from None


def _takes_several(kind: Any) -> bool:
    return get_origin(kind) is tuple or any(map(_takes_several, get_args(kind)))


def _plain(kind: Any) -> Any:
    """Return the type of one value: without metadata, alternatives and tuples."""
    return kind if get_origin(kind) in (None, Literal) else _plain(get_args(kind)[0])


def shown(value: Any) -> str:
    """Return a value as the help shows it."""
    if isinstance(value, bool | None):
        return {True: "on", False: "off", None: "none"}[value]
    return ",".join(map(shown, value)) if isinstance(value, tuple | list) else str(value)


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


def with_directory(argv: Sequence[str]) -> list[str]:
    """Return arguments with ``-d`` before the first one, where that is a directory by itself."""
    return ["-d", *argv] if argv and not argv[0].startswith("-") else [*argv]


def without_flag(argv: Sequence[str]) -> list[str]:
    """Return arguments without ``-d`` before the directory, where that is an argument by itself."""
    first = argv[0].replace("-", "_").upper() if argv else ""
    return [*argv[1:]] if first in ("_D", "__TRAINING_DIRECTORY") else [*argv]


IMG_SIDE_LEN = Option(
    "IMG_SIDE_LEN", "s", "Longer side of the final images in px; all stages scale with it",
    PositiveInt, also=("image_sizes", "image_size", "resolution", "width", "height"),
)  # fmt: skip
