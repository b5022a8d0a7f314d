"""What the tests of the entry points share: a tiny trained run, and how a mistake is reported."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from minimagen.cli import train
from minimagen.imagen import Imagen
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory
from tests.conftest import ONE_CAPTION

TESTING = Path(__file__).parents[2] / "parameters" / "testing"
TINY = ["--TESTING", "--VALID_NUM", "2", "-b", "2", "-t", "1", "--DEVICE", "cpu", *ONE_CAPTION]
QUICK = [*TINY, "--STEPS", "1"]

Refused = Callable[..., str]


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training directory, in a folder of its own; read only."""
    path = tmp_path_factory.mktemp("trained") / "training_mine"
    assert train.entry([*QUICK, "--OUTPUT", str(path)]) == 0
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(trained_once: Path, here: Path) -> Path:
    """A copy of the training directory here."""
    return Path(shutil.copytree(trained_once, here / "training_mine"))


@pytest.fixture
def images(here: Path) -> Path:
    """A folder of other data."""
    folder = here / "images"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", (32, 32), (20 * i, 0, 99)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    return folder


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run an entry point: one line with ``words``, exit code 2, every file as it was."""

    def run(entry: Callable[[list[str]], int], argv: list[Any], *words: str) -> str:
        before = contents(here)
        capsys.readouterr()
        assert entry([str(argument) for argument in argv]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0]
        assert contents(here) == before
        return lines[0]

    return run


def weights(directory: str | Path, stage: int) -> dict[str, Tensor]:
    return load_weights(TrainingDirectory(directory).weights(f"unet_{stage}")).tensors


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(t.equal(other[name]) for name, t in one.items())


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def before_each_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let a function run before each batch is sampled."""

    def set_up(act: Callable[[], None]) -> None:
        sample_batches = Imagen.sample_batches

        def spy(self: Imagen, *arguments: Any, **named: Any) -> Iterator[Any]:
            act()
            yield from sample_batches(self, *arguments, **named)

        monkeypatch.setattr(Imagen, "sample_batches", spy)

    return set_up
