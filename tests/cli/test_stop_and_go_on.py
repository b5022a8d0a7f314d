"""Stop, continue, extend, fine-tune, sample from any weights: by flags alone, no file edited."""

import json
import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from minimagen.cli import inference, train
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import locked
from minimagen.training import saving
from tests.cli.conftest import TINY, Refused


def steps(directory: str, weights: str = "unet_0") -> int:
    return int(load_weights(TrainingDirectory(directory).weights(weights)).state["step"])


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def interrupt_at(checkpoint: Path) -> None:
    """Send a Ctrl-C once a checkpoint is there."""
    until = time.monotonic() + 30
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)


def command(printed: str, purpose: str) -> list[str]:
    """The words after ``python train.py``, or after ``python -m minimagen train``."""
    lines = [line for line in printed.splitlines() if line.startswith(f"{purpose}:")]
    words = lines[-1].split()
    return words[next(i for i, word in enumerate(words) if word.startswith("--")) :]


@pytest.mark.slow
def test_a_newcomer_goes_through_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sheet.txt").write_text("a red star\na blue moon\n", "utf-8")

    # stop: the command that continues is printed, and continues
    killer = Thread(target=interrupt_at, args=[Path("run/tmp/unet_0_step_00000004")])
    killer.start()
    argv = [*TINY, "--STEPS", "300,3", "-o", "run", "--SAMPLE_CAPTIONS", "sheet.txt"]
    argv += ["--CHCKPT_NUM", "2", "--SAMPLE_NUM", "500"]
    assert train.entry(argv) == 130
    killer.join()
    printed = capsys.readouterr().out
    assert "everything is saved" in printed
    stopped_at = steps("run")
    assert stopped_at < 300
    assert Path("run/samples/captions.txt").read_text() == "a red star\na blue moon\n"
    again = command(printed, "continue")
    assert again[:3] == ["--RESTART_DIRECTORY", "run", "--IN_PLACE"]
    assert train.entry([*again, "--STEPS", f"{stopped_at + 6},3", "--KEEP_CHECKPOINTS", "all"]) == 0
    assert (steps("run"), steps("run", "unet_1")) == (stopped_at + 6, 3)

    # more: by minutes, with the command that a finished run prints
    more = command(capsys.readouterr().out, "continue")
    more[more.index("--MINUTES") + 1] = "0.02"
    assert train.entry(more) == 0
    assert steps("run") > stopped_at + 6
    sessions = json.loads(Path("run/environment.json").read_text())["sessions"]
    assert len(sessions) == 3

    # other data: fine-tune
    Path("images").mkdir()
    for i in range(40):
        Image.new("RGB", (32, 32), (6 * i, 0, 0)).save(f"images/{i}.png")
        Path(f"images/{i}.txt").write_text(f"red number {i}", "utf-8")
    tuned = ["--FROM", "run", "--DATASET", "images", "--STEPS", "3,2", "-o", "tuned"]
    assert train.entry(tuned) == 0
    assert (steps("tuned"), steps("tuned", "unet_1")) == (3, 2)

    # sample: from the best weights, from those of a step, from a step that is not kept
    kept = sorted(int(p.name[-8:]) for p in Path("run/tmp").glob("unet_0_step_*"))
    made = {}
    for weights in ("best", f"{kept[0]},final", "final"):
        argv = ["-d", "run", "-c", "a red star", "--SEED", "1", "-o", f"images_{weights}"]
        assert inference.entry([*argv, "--WEIGHTS", weights]) == 0
        made[weights] = files(Path(f"images_{weights}/generated_images"))
    assert made["final"] != made[f"{kept[0]},final"]
    capsys.readouterr()
    assert inference.entry(["-d", "run", "-c", "a", "--WEIGHTS", "99999", "-o", "none"]) == 2
    error = capsys.readouterr().err
    assert all(str(step) in error for step in kept)
    assert not Path("none").exists()


def test_a_run_that_another_process_trains_is_not_resumed_in_place(
    trained: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "PATIENCE", 0.0)
    again = ["-rd", "training_mine", "-ip", "--STEPS", "3", "--DEVICE", "cpu"]
    with locked(trained / "tmp" / ".unet_1_training") as held:
        assert held
        refused(train.entry, again, "unet_1 is being trained", "--IN_PLACE")
        assert train.entry([*again, "--STAGES", "0"]) == 0
    assert train.entry(again) == 0
