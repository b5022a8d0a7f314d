"""docs/parameters.md has every key of every JSON file, as the configuration models have them."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minimagen.storage.directory import read_parameters, write_parameters

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "parameters.md").read_text("utf-8")
PRESETS = sorted(path.parent for path in (ROOT / "parameters").rglob("imagen.json"))


def listed() -> dict[str, set[str]]:
    """The keys of each file."""
    sections = re.findall(r"^## (\w+\.json)[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    keys: dict[str, set[str]] = {}
    for name, text in sections:
        keys.setdefault(name, set()).update(re.findall(r"^\| `([\w.\[\]]+)` \|", text, re.M))
    return keys


def keys_of(values: Any, before: str = "") -> Iterator[str]:
    for key, value in values.items():
        objects = value if isinstance(value, list) else [value]
        inner = [each for each in objects if isinstance(each, dict)]
        name = before + key + "[]" * (isinstance(value, list) and bool(inner))
        yield name
        for each in inner:
            yield from keys_of(each, f"{name}.")


def test_the_page_is_the_one_that_the_tool_writes() -> None:
    tool = ROOT / "tools" / "write_parameters_page.py"
    spec = importlib.util.spec_from_file_location("write_parameters_page", tool)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE, "run python tools/write_parameters_page.py"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_every_key_that_is_written_is_on_the_page(preset: Path, tmp_path: Path) -> None:
    write_parameters(tmp_path, read_parameters(preset))
    for file in sorted(tmp_path.glob("*.json")):
        written = {re.sub(r"\[\](?=$)", "", key) for key in keys_of(json.loads(file.read_text()))}
        known = listed()[re.sub(r"_\d+", "_i", file.name)]
        assert written <= {re.sub(r"\[\](?=$)", "", key) for key in known}


def test_every_key_has_a_type_a_default_and_a_description() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGE, re.M)
    assert len(rows) > 100
    for row in rows:
        _, _, kind, default, _, _, what, _ = re.split(r"(?<!\\)\|", row)
        assert kind.strip() and default.strip() and what.strip(), row
