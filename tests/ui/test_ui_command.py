"""The command that serves the page: what it opens on, and where it serves."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("gradio")
from benchmarks.serving import ROOT
from minimagen.cli import ui
from minimagen.ui.studio import Studio

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_first_training_can_be_watched_before_it_has_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Studio] = []
    monkeypatch.setattr("minimagen.ui.page.build", lambda studio: studio)
    monkeypatch.setattr("minimagen.ui.page.serve", lambda page, studio, port: seen.append(studio))
    assert ui.entry(["--ROOT", str(tmp_path), "--DEVICE", "cpu"]) == 2
    shutil.copytree(ROOT / "tests/golden/trained/parameters", tmp_path / "training_1/parameters")
    assert ui.entry(["--ROOT", str(tmp_path), "--DEVICE", "cpu"]) == 0
    (studio,) = seen
    assert list(studio.runs()) == ["training_1"]
    assert set(studio.models()) == {"emoji", "scenes"}  # the bundled ones sample meanwhile


@pytest.mark.parametrize(
    ("flags", "variable", "port"),
    [
        ([], None, 7860),
        ([], "7001", 7001),
        (["--PORT", "7002"], "7001", 7002),
        (["--PORT", "7002"], "many", 7002),
        ([], "many", None),
        ([], "0", None),
    ],
)
def test_the_port_is_the_flags_else_gradios_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    flags: list[str], variable: str | None, port: int | None,
) -> None:  # fmt: skip
    served: list[int] = []
    monkeypatch.setattr("minimagen.ui.page.build", lambda studio: studio)
    monkeypatch.setattr("minimagen.ui.page.serve", lambda page, studio, port: served.append(port))
    monkeypatch.delenv("GRADIO_SERVER_PORT", raising=False)
    if variable is not None:
        monkeypatch.setenv("GRADIO_SERVER_PORT", variable)
    assert ui.entry(["--DEVICE", "cpu", *flags]) == (0 if port else 2)
    assert served == ([port] if port else [])
    said = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("error: --PORT must be") for line in said if "error" in line] == (
        [] if port else [True]
    )
