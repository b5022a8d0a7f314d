"""Runs that are resumed, damaged, or out of disk: what is refused, and what stays good."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minimagen.cli import train
from minimagen.storage import checkpoint
from minimagen.storage.checkpoint import load_newest
from minimagen.storage.directory import TrainingDirectory
from tests.cli.conftest import QUICK, TESTING, contents

Refused = Callable[..., str]


def test_a_resumed_run_may_not_change(refused: Refused, trained: Path) -> None:
    refused(train.entry, ["-rd", trained, "-b", "4"], "--BATCH_SIZE 4 differs", "ACCUM_ITER")
    refused(train.entry, ["-rd", trained, "--SEED", "9"], "--SEED 9 differs")
    refused(train.entry, ["-rd", trained, "-p", TESTING], "leave out --PARAMETERS")


def test_a_resumed_run_that_is_past_its_end(refused: Refused, trained: Path) -> None:
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "2"]) == 0
    refused(train.entry, ["-rd", trained, "--STEPS", "1"], "already has 2 steps", "more STEPS")


def test_a_resumed_run_of_another_configuration(refused: Refused, trained: Path) -> None:
    path = trained / "parameters" / "unet_1.json"
    stage = json.loads(path.read_text())
    stage["unet"]["dim"] *= 2
    path.write_text(json.dumps(stage))
    refused(
        train.entry, ["-rd", trained, "--STEPS", "2"], "stage 1", "another run", "unet.dim was 16"
    )


@pytest.mark.parametrize(
    ("file", "keys", "value", "words"),
    [
        ("training.json", ["batch_size"], 4, "batch_size was 2, is 4"),
        ("training.json", ["seed"], 7, "seed was 0, is 7"),
        ("training.json", ["stages", 0, "optimizer"], "adamw", "was 'muon', is 'adamw'"),
        ("data.json", ["epoch_size"], 65, "data.epoch_size was 64, is 65"),
        ("data.json", ["dataset"], "shapes:scenes", "was 'shapes', is 'shapes:scenes'"),
    ],
)
def test_a_resumed_run_whose_parameters_were_edited(
    refused: Refused, trained: Path, file: str, keys: list[Any], value: Any, words: str
) -> None:
    path = trained / "parameters" / file
    values = place = json.loads(path.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(values))
    refused(train.entry, ["-rd", trained, "--STEPS", "2"], words, "another run")


def test_a_resumed_run_with_damaged_checkpoints(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (trained / "tmp").rglob("tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = contents(here)
    assert train.entry(["-rd", str(trained), "--STEPS", "2"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "every checkpoint" in error[0] and "is damaged" in error[0]
    assert contents(here) == before


def test_a_resumed_run_keeps_its_stages_batch_sizes(trained: Path) -> None:
    path = trained / "parameters" / "training.json"
    values = json.loads(path.read_text())
    for stage in values["stages"]:
        stage["batch_size"] = 2
    path.write_text(json.dumps(values))
    assert train.entry(["-rd", str(trained), "-b", "2", "--STEPS", "2", "-o", "longer"]) == 0
    kept = json.loads(Path("longer/parameters/training.json").read_text())
    assert [stage["batch_size"] for stage in kept["stages"]] == [2, 2]


def test_a_damaged_newest_checkpoint_does_not_outlive_the_good_ones(trained: Path) -> None:
    """Resumed in place behind a damaged checkpoint, the run keeps what it writes from there on."""
    tmp, good = trained / "tmp", trained / "tmp" / "unet_0_step_00000001"
    for step in (2, 900):
        damaged = Path(shutil.copytree(good, tmp / f"unet_0_step_{step:08d}"))
        (damaged / "tensors.safetensors").write_bytes(b"")
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "3", "-cn", "1"]) == 0
    found = load_newest(tmp, "unet_0_step_")
    assert found is not None and found.state["step"] == 3
    assert (tmp / "unet_0_step_00000002" / "manifest.json").is_file()
    assert (tmp / "unet_0_step_00000900.damaged").is_dir()


@pytest.mark.parametrize("where", ["open", "fsync"])
def test_a_full_disk_ends_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The disk fills up while the run writes its logs, or anything that is synced."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    if where == "open":
        monkeypatch.setattr("minimagen.training.tracking.Tracker.record", full)
    else:
        monkeypatch.setattr("os.fsync", full)
    assert train.entry([*QUICK, "--OUTPUT", "mine"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(error) == 1 and "No space left on device" in error[0]


def test_a_full_disk_leaves_the_old_checkpoint_good(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = TrainingDirectory(trained)
    old = load_newest(directory.tmp, directory.checkpoint_prefix(0))
    weights = directory.weights(0).read_bytes()

    def full(tensors: Any, path: Path, *_: Any) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "2"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(error) == 1 and "No space left on device" in error[0]
    new = load_newest(directory.tmp, directory.checkpoint_prefix(0))
    assert old is not None and new is not None and new.state == old.state
    assert all(torch.equal(new.tensors[name], tensor) for name, tensor in old.tensors.items())
    assert directory.weights(0).read_bytes() == weights
    assert not list(trained.rglob("*.part"))
