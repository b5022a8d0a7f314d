"""Preset < parameters directory < command line: the values of a run, each with its source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimagen.checked import per_stage
from minimagen.cli.options import KeyPath
from minimagen.config import DataConfig, ImagenConfig, TrainingConfig
from minimagen.errors import UserError
from minimagen.storage.directory import Parameters, TrainingDirectory, read_parameter_values

_PACKAGE = Path(__file__).parents[1]
_INSTALLED, _CLONED = _PACKAGE / "parameters", _PACKAGE.parent / "parameters"
PRESETS = _INSTALLED if _INSTALLED.is_dir() else _CLONED  # the wheel has them in the package
DEMO, TESTING = PRESETS, PRESETS / "testing"


class Settings:
    """Nested values of ``imagen``, ``training`` and ``data``, and where each came from."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values: dict[str, Any] = {}
        self._sources: dict[KeyPath, str] = {}
        self.overlay(values, source)

    def overlay(self, values: Mapping[str, Any], source: str) -> None:
        """Replace whole sections by ``values``."""
        for section, content in values.items():
            self._values[section] = content
            self._sources = {p: s for p, s in self._sources.items() if p[0] != section}
            self._sources[(section,)] = source

    def set(self, path: KeyPath, value: Any, source: str) -> None:
        """Set one value; where ``path`` holds ``"*"`` every stage's, to its own of a tuple."""
        if "*" in path:
            at = path.index("*")
            count = len(self._get(path[:at]))
            values = per_stage(source, value, count)
            for i in range(count):
                self.set((*path[:at], i, *path[at + 1 :]), values[i], source)
            return
        parent = self._get(path[:-1])
        parent[path[-1]] = value
        self._sources[path] = source

    def _get(self, path: KeyPath) -> Any:
        value: Any = self._values
        for part in path:
            if isinstance(value, dict):
                value = value.setdefault(part, {})
            else:
                value = value[part]
        return value

    def write_out_stages(self) -> None:
        """Give every stage training settings of its own, so that each can be changed."""
        parameters = self.parameters()
        count, entries = len(parameters.imagen.stages), parameters.training.stages
        if len(entries) != count and len(entries) <= 1:
            entry = entries[0].model_dump() if entries else {}
            self.set(("training", "stages"), [dict(entry) for _ in range(count)], "default")

    def parameters(self) -> Parameters:
        """Return the checked configuration."""
        return Parameters(
            ImagenConfig.read(self._values["imagen"], self._where("imagen")),
            TrainingConfig.read(self._values["training"], self._where("training")),
            DataConfig.read(self._values["data"], self._where("data")),
        )

    def _where(self, section: str) -> str:
        return f"{section} settings from {self._sources[(section,)]}"

    def table(self, parameters: Parameters) -> str:
        """Return one line per value of ``parameters``: name, value, source."""
        lines: list[str] = []
        for section, config in zip(parameters._fields, parameters, strict=True):
            self._list((section,), config.model_dump(mode="json"), lines)
        return "\n".join(lines)

    def _list(self, path: KeyPath, value: Any, lines: list[str]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                self._list((*path, key), inner, lines)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for i, inner in enumerate(value):
                self._list((*path, i), inner, lines)
        else:
            name = ".".join(map(str, path))
            lines.append(f"{name} = {value!r}  ({self._source(path)})")

    def _source(self, path: KeyPath) -> str:
        """Return the source of the nearest enclosing value that has one and was given there."""
        for end in range(len(path), 1, -1):
            if path[:end] in self._sources:
                return self._sources[path[:end]]
        value: Any = self._values
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return "default"
        return self._sources[path[:1]]


def values_at(parameters: Parameters, path: KeyPath) -> Any:
    """Return the value at ``path``; where that holds ``"*"`` every stage's, if they differ."""
    values: list[Any] = [getattr(parameters, str(path[0])).model_dump(mode="json")]
    for part in path[1:]:
        values = [v for x in values for v in x] if part == "*" else [x[part] for x in values]
    return values if any(value != values[0] for value in values) else values[0]


def saved_settings(path: Path) -> Settings:
    """Return the values of the training directory at ``path``."""
    directory = TrainingDirectory.open(path)
    return Settings(read_parameter_values(directory.parameters), str(directory))


def read_settings(folder: Path | None, testing: bool) -> Settings:
    """Return the values of ``folder``, over the demo preset (or the tiny one, if ``testing``).

    A folder that does not exist may be the name of a preset.

    Raises:
        UserError: If there is neither such a folder nor such a preset, or a value is not valid.
    """
    preset = TESTING if testing and folder is None else DEMO
    if not (preset / "imagen.json").is_file():
        raise UserError(f"the presets are missing at {PRESETS}: install minimagen-cascade again")
    name = "the testing preset" if preset == TESTING else "the demo preset"
    settings = Settings(read_parameter_values(preset), name)
    if folder is not None:
        folder = _preset(folder)
        values = read_parameter_values(folder)
        settings.overlay(values, str(folder))
        if "training" not in values:  # its stages are those of the preset's cascade
            settings.set(("training", "stages"), [], "default")
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
