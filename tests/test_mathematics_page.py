"""docs/mathematics.md promises a test for every equation: they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", page))
    assert len(named) > 40
    assert [name for name in sorted(named) if f"def {name}(" not in source] == []
    files = set(re.findall(r"[\w/]*test_\w+\.py", page))
    assert [f for f in files if not list((ROOT / "tests").rglob(Path(f).name))] == []


def test_every_function_that_the_page_names_exists():
    page = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "minimagen").rglob("*.py"))
    for dotted in set(re.findall(r"`([a-z]+\.[\w.]+)`", page)):
        if not dotted.endswith(".py"):
            name = dotted.rsplit(".", 1)[1]
            assert re.search(rf"(def|class) {name}\b", source), dotted
