"""Runs that are resumed, damaged, or out of disk: what is refused, and what stays good."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minimagen.cli import train
from minimagen.storage import checkpoint
from minimagen.storage.directory import TrainingDirectory, read_parameters
from tests.checkpoints import load_newest
from tests.cli.conftest import QUICK, TESTING, contents, same, weights

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-b", "4"], "optimization.batch_size was 2, is 4"),
        (["--SEED", "9"], "seed was 0, is 9"),
        (["--DATASET", "shapes:scenes"], "content was 'shapes train', is 'shapes:scenes train'"),
        (["--CROP", "random"], "data.crop was 'centre', is 'random'"),
        (["--IMG_SIDE_LEN", "64"], "image_sizes was [[16, 16]], is [[32, 32]]"),
        (["-mw", "8"], "max_num_words was 64, is 8"),
        (["-p", str(TESTING)], "leave out --PARAMETERS"),
        (["--TESTING"], "leave out --TESTING"),
    ],
)
def test_a_resumed_run_may_not_change(
    refused: Refused, trained: Path, flags: list[str], words: str
) -> None:
    message = refused(train.entry, ["-rd", trained, *flags], words)
    assert "leave out" in message or "may change steps, epochs" in message


def test_a_resumed_run_may_repeat_what_it_was_given(trained: Path) -> None:
    again = ["-b", "2", "--SEED", "0", "-ds", "shapes", "-s", "32", "-t", "1", "-cr", "centre"]
    assert train.entry(["-rd", str(trained), *again, "--STEPS", "2", "-o", "longer"]) == 0


def test_a_resumed_run_finds_data_that_was_moved(here: Path) -> None:
    """Under another parent folder, by another spelling, from another working directory."""
    images = here / "one" / "stars"
    images.mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (32, 32), (25 * i, 0, 99)).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text(f"number {i}")
    assert train.entry([*QUICK, "-ds", "one/stars", "-o", "first"]) == 0
    moved = here / "two" / "stars"
    shutil.copytree(images, moved)
    onward = ["-rd", str(here / "first"), "--STEPS", "2"]
    assert train.entry([*onward, "-ds", "two/stars", "-o", "second"]) == 0
    (here / "elsewhere").mkdir()
    os.chdir(here / "elsewhere")
    assert train.entry([*onward, "-ds", "../two/stars/", "-o", "third"]) == 0
    for i in range(2):
        assert same(weights(here / "second", i), weights("third", i))


def test_a_resumed_run_that_is_past_its_end(refused: Refused, trained: Path) -> None:
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "2"]) == 0
    refused(train.entry, ["-rd", trained, "--STEPS", "1"], "already has 2 steps", "more --STEPS")


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
        ("training.json", ["learners", 0, "optimizer"], "adamw", "was 'muon', is 'adamw'"),
        ("data.json", ["epoch_size"], 65, "data.epoch_size was 64, is 65"),
        ("data.json", ["dataset"], "shapes:scenes", "was 'shapes train', is 'shapes:scenes train'"),
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
    for stage in values["learners"]:
        stage["batch_size"] = 2
    path.write_text(json.dumps(values))
    assert train.entry(["-rd", str(trained), "-b", "2", "--STEPS", "2", "-o", "longer"]) == 0
    kept = read_parameters(Path("longer/parameters")).training
    assert [kept.batch_size_of(i) for i in range(2)] == [2, 2]


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
    old = load_newest(directory.tmp, directory.checkpoint_prefix("unet_0"))
    weights = directory.weights("unet_0").read_bytes()

    def full(tensors: Any, path: Path, *_: Any) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "2"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(error) == 1 and "No space left on device" in error[0]
    new = load_newest(directory.tmp, directory.checkpoint_prefix("unet_0"))
    assert old is not None and new is not None and new.state == old.state
    assert all(torch.equal(new.tensors[name], tensor) for name, tensor in old.tensors.items())
    assert directory.weights("unet_0").read_bytes() == weights
    assert not list(trained.rglob("*.part"))
