"""From the entry points to the images with a tiny cascade: whole programs, as a user runs them."""

import json
import os
import random
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from minimagen.__main__ import main as minimagen
from minimagen.cli import inference, train
from minimagen.storage.checkpoint import load_weights
from tests.conftest import ONE_CAPTION

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TINY = ["--PARAMETERS", str(ROOT / "parameters" / "testing"), "--VALID_NUM", "8", "-b", "4"]
TINY += ONE_CAPTION
RUN = [*TINY, "--STEPS", "16", "--CHCKPT_NUM", "3", "--SEED", "3"]


def program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / name), *arguments]


def run(folder: Path, name: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        program(name, *arguments), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def stop_when(
    folder: Path,
    output: Path,
    signum: int,
    steps: int,
    kill: Callable[[int, int], None] = os.kill,
    more: Sequence[str] = (),
) -> int:
    """Start a run, send it a signal once stage 0 has a checkpoint of ``steps``; its exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        program("train.py", *RUN, "--OUTPUT", str(output), *more),
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wanted = output / "tmp" / f"unet_0_step_{steps:08d}"
    until = time.monotonic() + 120
    while not wanted.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be stopped"
    time.sleep(random.random() * 0.3)
    kill(process.pid, signum)
    return process.wait(timeout=120)


def stop_sampling(folder: Path, images: int, argv: Sequence[str]) -> tuple[int, str]:
    """Press Ctrl-C in ``inference.py`` after so many images; its exit code and what it printed."""
    process = subprocess.Popen(
        program("inference.py", *argv, "-o", "stopped"),
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored behind nohup
    )
    list_ = folder / "stopped" / "images.jsonl"
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if list_.exists() and list_.read_bytes().count(b"\n") >= images:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be stopped"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    return process.returncode, printed


def sampled(output: Path) -> dict[int, bytes]:
    """Return the pixels of the images by their seeds; all are whole and have their lines."""
    rows = [json.loads(row) for row in (output / "images.jsonl").read_text().splitlines()]
    assert len((output / "captions.txt").read_text().splitlines()) == len(rows)
    files = {path.name for path in (output / "generated_images").iterdir()}
    assert files == {row["file_name"] for row in rows}
    return {row["seed"]: pixels(output / "generated_images" / row["file_name"]) for row in rows}


def assert_same_weights(one: Path, other: Path) -> None:
    for i in range(2):
        a, b = (load_weights(d / "state_dicts" / f"unet_{i}.safetensors") for d in (one, other))
        assert a.tensors.keys() == b.tensors.keys()
        for name, tensor in a.tensors.items():
            assert tensor.equal(b.tensors[name]), name


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.fixture(autouse=True)
def cache(cache_of_module: Path) -> Path:
    return cache_of_module


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache_of_module: Path) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, "train.py", *RUN, "--OUTPUT", str(folder / "whole"))
    return folder / "whole"


def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: Path) -> None:
    killed = tmp_path / "killed"
    assert stop_when(tmp_path, killed, signal.SIGKILL, 6) == -signal.SIGKILL
    run(tmp_path, "train.py", "--RESTART_DIRECTORY", str(killed), "--IN_PLACE")
    assert_same_weights(killed, uninterrupted)


def test_an_interrupted_run_saves_everything_and_resumes_elsewhere(
    tmp_path: Path, uninterrupted: Path, one_thread: None
) -> None:
    """It is resumed in this process, to import torch once less."""
    stopped, resumed = tmp_path / "stopped", tmp_path / "resumed"
    assert stop_when(tmp_path, stopped, signal.SIGINT, 3) == 130
    assert "everything is saved" in (stopped / "training_progress.txt").read_text()
    before = sorted(p.name for p in (stopped / "tmp").iterdir())
    assert train.entry(["-rd", str(stopped), "--OUTPUT", str(resumed)]) == 0
    assert_same_weights(resumed, uninterrupted)
    assert sorted(p.name for p in (stopped / "tmp").iterdir()) == before


def test_sigterm_to_the_whole_group_saves_and_exits_143(tmp_path: Path) -> None:
    """As a batch system sends it: the data loader's workers get it too."""
    stopped = tmp_path / "terminated"
    workers = ["--NUM_WORKERS", "1"]
    assert stop_when(tmp_path, stopped, signal.SIGTERM, 3, os.killpg, workers) == 143
    assert "everything is saved" in (stopped / "training_progress.txt").read_text()


def test_longer_runs_continue_and_other_changes_are_refused(
    tmp_path: Path, uninterrupted: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = tmp_path / "longer"
    restart = ["--RESTART_DIRECTORY", str(uninterrupted), "--OUTPUT", str(longer)]
    assert train.entry([*restart, "--STEPS", "18", "--ACCUM_ITER", "2"]) == 0
    steps = json.loads((longer / "parameters" / "training.json").read_text())["steps"]
    assert steps == [18, 18]
    capsys.readouterr()
    assert train.entry(["-rd", str(uninterrupted), "--SEED", "4"]) == 2
    message = "".join(capsys.readouterr())
    assert "seed was 3, is 4" in message and message.count("\n") == 1


def test_the_demo_leaves_images_and_says_where(tmp_path: Path) -> None:
    printed = run(tmp_path, "main.py", "--TESTING", "--VALID_NUM", "4")
    (grid,) = tmp_path.glob("generated_images_*/grid.png")
    assert str(grid.relative_to(tmp_path)) in printed
    captions = (grid.parent / "captions.txt").read_text().splitlines()
    images = sorted((grid.parent / "generated_images").iterdir())
    assert len(images) == len(captions) > 0
    assert len(pixels(images[0])) == 32 * 32 * 3


def test_inference_samples_a_file_of_captions(
    tmp_path: Path, uninterrupted: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "captions.txt").write_text("a red star\n\n  a big blue ring \n", "utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ["-d", str(uninterrupted), "-t", "2", "--SEED"]
    for given in (["5", "--CAPTIONS", "captions.txt", "-o", "one"],
                  ["6", "-c", "a big blue ring", "-o", "two"]):  # fmt: skip
        assert inference.entry([*arguments, *given]) == 0
    rows = [json.loads(row) for row in (tmp_path / "one/images.jsonl").read_text().splitlines()]
    assert [(row["text"], row["seed"]) for row in rows] == [
        ("a red star", 5),
        ("a big blue ring", 6),
    ]
    a = pixels(tmp_path / "one/generated_images/image_1.png")
    b = pixels(tmp_path / "two/generated_images/image_0.png")
    difference = max(abs(x - y) for x, y in zip(a, b, strict=True))
    assert difference <= 1  # the seed decides, not the batch


def test_200_images_are_interrupted_and_continued_to_the_same_bits(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that it prints is typed; it runs here, to import torch once less."""
    trained, count, batch = str(ROOT / "tests" / "golden" / "trained"), 200, 10
    argv = ["-d", trained, "-c", "a red star", "-t", "1", "-b", str(batch), "--DEVICE", "cpu"]
    code, printed = stop_sampling(tmp_path, 20, [*argv, "-n", str(count), "--SEED", "5"])
    done = len(sampled(tmp_path / "stopped"))
    assert code == 130 and 20 <= done < count and done % batch == 0
    assert f"interrupted: {done} of 200 images" in printed
    (command,) = re.findall(r"^sample the others: (.*)$", printed, re.MULTILINE)
    assert shlex.split(command) == ["python", str(ROOT / "inference.py"), "--CONTINUE", "stopped"]
    monkeypatch.chdir(tmp_path)
    assert inference.entry(shlex.split(command)[2:]) == 0
    images = sampled(tmp_path / "stopped")
    assert list(images) == list(range(5, 5 + count))
    for first in (5, 5 + done):  # batches before and after it was stopped
        output = f"whole_{first}"
        assert inference.entry([*argv, "-n", str(batch), "--SEED", str(first), "-o", output]) == 0
        whole = sampled(tmp_path / output)
        assert whole == {seed: images[seed] for seed in whole}


def test_the_examples_run_and_stay_short(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, sampling = sorted((ROOT / "examples").glob("*.py"), reverse=True)
    assert all(len(f.read_text().splitlines()) <= 25 for f in (training, sampling))
    monkeypatch.chdir(tmp_path)
    tiny = str(ROOT / "parameters" / "testing")
    for script, argv in ((training, [tiny, "shapes", "own", "2"]), (sampling, ["own", "a star"])):
        monkeypatch.setattr(sys, "argv", [str(script), *argv])
        runpy.run_path(str(script), run_name="__main__")
    assert len(pixels(tmp_path / "own_0.png")) == 32 * 32 * 3


def test_a_folder_of_images_trains(tmp_path: Path) -> None:
    export = ["data", "export", "shapes", str(tmp_path / "own_images")]
    assert minimagen([*export, "--count", "24", "--size", "40"]) == 0
    (tmp_path / "own_images" / "broken.png").write_bytes(b"no image")
    with (tmp_path / "own_images" / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "broken.png", "text": "nothing"}\n')
    printed = run(
        tmp_path, "train.py", *TINY, "-ds", "own_images", "--EPOCHS", "1", "-o", "trained"
    )
    assert "broken.png" in printed
    steps = json.loads((tmp_path / "trained/parameters/training.json").read_text())["steps"]
    assert steps == [6, 6]  # 22 of 24 images in batches of 4
