"""The commands on platforms that differ from this one: file systems and consoles."""

from pathlib import Path

import pytest

from minimagen.cli import inference, train
from tests.platforms import behave_as_windows

QUICK = ["--TESTING", "--DEVICE", "cpu", "--CHCKPT_NUM", "1"]


def test_training_resuming_joining_and_sampling_where_windows_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    behave_as_windows(monkeypatch)
    assert train.entry([*QUICK, "--STEPS", "2"]) == 0
    run = str(next(tmp_path.glob("training_*")))
    assert train.entry(["-rd", run, "--IN_PLACE", "--STEPS", "3", "--DEVICE", "cpu"]) == 0
    assert train.entry(["-rd", run, "--STEPS", "4", "--DEVICE", "cpu", "-o", "resumed"]) == 0
    for stage in ("0", "1"):
        assert train.entry([*QUICK, "--STEPS", "1", "--STAGES", stage, "-o", "joined"]) == 0
    assert inference.entry(["-d", "joined", "-c", "a red star", "-t", "1", "--DEVICE", "cpu"]) == 0
    assert list(tmp_path.glob("generated_images_*/grid.png"))
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".part", ".old")]
