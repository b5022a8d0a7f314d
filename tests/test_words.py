"""The field's words (CONTRIBUTING.md) in identifiers, messages and docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_OURS = re.compile(
    r"(?<![a-z])(pictures?|paint(s|ed|er|ing)?|told|tells?|everybody|nobody|colours?|"
    r"centred?|grey|neighbours?|behaviours?)(?![a-z])",
    re.IGNORECASE,
)
FOLDERS = ("minimagen", "benchmarks", "tools", "docs", "examples", "tests")
KEPT = re.compile(
    r'["`\'](centre|pictures?|picture of [^"]*|first-contentful-paint)["`\']|\.tell\(\)'
)  # values, keys and captions on disk, a name of browsers, a method of files
SKIPPED = {  # files whose subject is the words, and old names that are still read
    "CONTRIBUTING.md": "the table of words",
    "benchmarks/measuring.py": "earlier keys of rows",
    "tools/caption_corpus.py": "words of captions",
    "tests/test_words.py": "the words",
}
NOT_YET = {"benchmarks/RESULTS.md"}
FILES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(p for f in FOLDERS for p in (ROOT / f).rglob("*.*")),
]
CHECKED = sorted(
    path
    for path in FILES
    if path.suffix in (".py", ".md")
    and path.relative_to(ROOT).as_posix() not in {*SKIPPED, *NOT_YET}
)


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_uses_the_words_of_the_field(path: Path) -> None:
    text = KEPT.sub("", re.sub(r"\btest_\w+", "", path.read_text("utf-8")))
    lines = text.splitlines()
    assert [f"{n}: {line}" for n, line in enumerate(lines, 1) if NOT_OURS.search(line)] == []


def test_the_words_are_found_inside_identifiers_too() -> None:
    for word in ("Picture", "read_pictures", "paint", "PAINTED", "told", "colour", "other_colours"):
        assert NOT_OURS.search(word), word
    for word in ("color", "colors", "paintbrush", "telling", "center", "stolen"):
        assert not NOT_OURS.search(word), word
