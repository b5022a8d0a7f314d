"""What an installer and an index are shown: the name, the version, the page, the requirements."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import minimagen
from minimagen.data.download.fetch import HEADERS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SHOWN = [p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("minimagen/**/*.py"))]


def _requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def _pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text("utf-8").split()
    return {canonicalize_name(n): version for n, version in (line.split("==") for line in lines)}


def test_the_distribution_is_not_the_other_project_of_the_same_import() -> None:
    assert PROJECT["name"] == "minimagen-cascade"
    assert PROJECT["scripts"] == {"minimagen": "minimagen.__main__:main"}


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_installs_the_other_project_or_names_its_page(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"pip install [^`\n]*\bminimagen(?!-cascade)\b", text)
    assert not re.search(r"pypi\.org/project/minimagen(?!-cascade)", text)
    assert not re.search(r"\bminimagen\[", text)


def test_the_user_agent_names_the_project_and_its_version() -> None:
    assert HEADERS["User-Agent"] == f"minimagen-cascade/{minimagen.__version__}"


def test_the_page_on_an_index_has_no_link_into_the_repository() -> None:
    page = (ROOT / PROJECT["readme"]).read_text("utf-8")
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links and all(link.startswith("https://") for link in links)


def test_what_is_pinned_is_what_is_required_and_within_its_range() -> None:
    pinned = _pinned("requirements.txt")
    required = _requirements(PROJECT["dependencies"])
    assert pinned.keys() == required.keys()
    assert all(requirement.specifier.contains(pinned[n]) for n, requirement in required.items())


def test_what_is_pinned_for_development_is_within_the_range_of_the_extras() -> None:
    pinned = _pinned("requirements-dev.txt")
    extras = PROJECT["optional-dependencies"]
    required = _requirements([line for extra in extras.values() for line in extra])
    assert pinned.keys() <= required.keys()
    assert all(required[name].specifier.contains(version) for name, version in pinned.items())
