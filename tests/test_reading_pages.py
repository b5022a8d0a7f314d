"""docs/paper.md and docs/glossary.md name files, settings and decisions: they are as named."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from minimagen.config import autoencoders, clip, data, imagen, networks, stages, training

ROOT = Path(__file__).parents[1]
PAPER, GLOSSARY = (
    (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("paper", "glossary")
)
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `([^`]+)` \|$", GLOSSARY, re.MULTILINE)


def value_at(values: Any, path: str) -> Any:
    """Return what parsed JSON holds at a dotted path."""
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


def fields() -> set[str]:
    """Return the names of all fields of the configuration models."""
    modules = (autoencoders, clip, data, imagen, networks, stages, training)
    models = [m for module in modules for m in vars(module).values() if isinstance(m, type)]
    return {name for m in models if issubclass(m, BaseModel) for name in m.model_fields}


def test_every_file_that_the_pages_name_exists() -> None:
    named = re.findall(r"`((?:minimagen|parameters|tools|docs)/[\w./]*)`", PAPER + GLOSSARY)
    assert len(named) > 60
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_demo_has_the_values_that_the_page_of_the_paper_gives() -> None:
    claims = 0
    for file, cell in re.findall(r"`(parameters/\w+\.json)`: ([^|]*?)(?=\||`parameters|$)", PAPER):
        values = json.loads((ROOT / file).read_text("utf-8"))
        for path, value in re.findall(r'`([\w.]+)` ("\w+"|[\d.]*\d|true|false)', cell):
            assert value_at(values, path) == json.loads(value), (file, path)
            claims += 1
    assert claims >= 20


def test_the_decisions_that_the_page_of_the_paper_quotes_are_in_the_section_it_links() -> None:
    page = (ROOT / "docs" / "decisions.md").read_text("utf-8")
    sections = {
        part.split("\n")[0].lower().replace(" ", "-"): " ".join(part.split())
        for part in page.split("\n## ")[1:]
    }
    quotes = re.findall(r'\(decisions\.md#([\w-]+)\), "([^"]+)"', PAPER)
    assert len(quotes) >= 18
    assert [q for anchor, q in quotes if q not in sections[anchor].replace("**", "")] == []


def test_the_glossary_is_alphabetical() -> None:
    words = [word.replace("_", "").lower() for word, _, _ in ROWS]
    assert len(words) > 45 and words == sorted(words)


def test_every_setting_that_the_glossary_names_is_a_field_of_a_configuration() -> None:
    named = {name for _, meaning, _ in ROWS for name in re.findall(r"`(\w+)`", meaning)}
    assert len(named) > 20
    assert named - fields() - {"ddim", "ddpm"} == set()
