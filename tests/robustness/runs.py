"""Training processes that are broken, and what is left of their directories afterwards."""

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STEPS, BETWEEN = 24, 3  # of both stages; steps between checkpoints
PRESET = ROOT / "parameters" / "testing"


@dataclass
class Run:
    """Where runs go, and what they are compared with."""

    folder: Path
    seconds: float = 0.0  # of the run without a fault, once its directory was there
    expected: dict[str, Any] = field(default_factory=dict)  # data -> weights of that run

    @property
    def data(self) -> str:
        """Return the folder of images to train on."""
        return str(self.folder / "images")

    def preset(self) -> Path:
        """Return the tiny preset, with fewer sample sheets, which would take most of the time."""
        folder = self.folder / "parameters"
        if not folder.is_dir():
            shutil.copytree(PRESET, folder)
            path = folder / "training.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_num": STEPS // 2}))
        return folder

    def arguments(self, output: Path, data: str = "shapes") -> list[str]:
        """Return the arguments of train.py."""
        lengths = ["-b", "2", "-st", str(STEPS), "-cn", str(BETWEEN), "-vn", "4", "-t", "1"]
        start = ["-p", str(self.preset()), "-ds", data, "--SEED", "3", "--DEVICE", "cpu"]
        return [*start, *lengths, "-o", str(output)]

    def start(self, output: Path, *, fault: Sequence[str] = (), data: str = "shapes") -> "Process":
        """Start train.py, with a fault injected or as it is."""
        program = ["-m", "tests.robustness.injected", *fault] if fault else [str(ROOT / "train.py")]
        number, log = tempfile.mkstemp(".txt", dir=self.folder)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, *program, *self.arguments(output, data)],
            cwd=self.folder,
            env=environment | {"MINIMAGEN_CACHE": str(self.folder / "cache")},
            stdout=number,
            stderr=number,
        )
        os.close(number)
        return Process(process, Path(log), output)

    def output(self) -> Path:
        """Return a new name for a training directory."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / "run"


@dataclass
class Process:
    """A training process that is to be broken."""

    popen: "subprocess.Popen[bytes]"
    log: Path
    output: Path

    def wait_for(self, there: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Wait without pause until something is there; False if the process ends before."""
        until = time.monotonic() + seconds
        while self.popen.poll() is None and time.monotonic() < until:
            if there():
                return True
            time.sleep(0.0005)
        return False

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        return self.popen.wait(timeout=600)

    def stop(self, signum: int, seconds: float = 60.0) -> int:
        """Send a signal and return the exit code."""
        self.popen.send_signal(signum)
        return self.popen.wait(timeout=seconds)

    def output_text(self) -> str:
        """Return what it printed."""
        return self.log.read_text("utf-8", errors="replace")


def parts(directory: Path) -> list[str]:
    """Return the files that are half written."""
    return [str(p.relative_to(directory)) for p in directory.rglob("*.part")]


def checkpoints(directory: Path) -> dict[int, int]:
    """Return stage -> newest step that is on disk under its final name, whole or not."""
    found: dict[int, int] = {}
    for folder in (directory / "tmp").glob("unet_*_step_*"):
        if not folder.suffix:
            _, stage, _, step = folder.name.split("_")
            found[int(stage)] = max(found.get(int(stage), 0), int(step))
    return found


def readable(directory: Path) -> dict[int, int]:
    """Return stage -> step of the newest checkpoint that can be read."""
    from tests.checkpoints import load_newest

    with contextlib.redirect_stderr(io.StringIO()):  # the resumed run reports it again
        loaded = {i: load_newest(directory / "tmp", f"unet_{i}_step_") for i in range(2)}
    return {i: each.state["step"] for i, each in loaded.items() if each is not None}


def weights(directory: Path) -> dict[str, Any]:
    """Return the trained weights of both stages."""
    from minimagen.storage.checkpoint import load_weights

    found: dict[str, Any] = {}
    for i in range(2):
        tensors = load_weights(directory / "state_dicts" / f"unet_{i}.safetensors").tensors
        found |= {f"{i} {name}": tensor for name, tensor in tensors.items()}
    return found


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether two sets of weights are equal."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def call(entry: Callable[[list[str]], int], *arguments: object) -> tuple[int, str]:
    """Run an entry point in this process; return its exit code and what it printed."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)  # pytest's own handlers take the place of the command's
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            code = entry([str(argument) for argument in arguments])
    finally:
        logging.getLogger().removeHandler(handler)
    return code, text.getvalue()


def inference_reads(directory: Path) -> bool:
    """Return whether inference.py samples, or names in one line the weights that are missing."""
    from minimagen.cli import inference

    output = Path(tempfile.mkdtemp(dir=directory.parent)) / "images"
    code, said = call(inference.entry, "-d", directory, "-c", "a red star", "-t", 1, "-o", output)
    trained = directory / "state_dicts"
    missing = [i for i in range(2) if not (trained / f"unet_{i}.safetensors").exists()]
    if missing:
        return code == 2 and f"no trained weights unet_{missing[0]}.safetensors" in said
    return code == 0 and any(output.rglob("image_0.png"))


@dataclass
class Recovery:
    """What a fault has left, and what became of it."""

    began: bool  # there was something to lose
    after: dict[int, int] = field(default_factory=dict)  # stage -> newest readable step
    text: str = ""  # what the resumed run printed


def recover(run: Run, directory: Path, before: dict[int, int], data: str = "shapes") -> Recovery:
    """Check what a fault has left, resume in place, and check again: nothing may be lost.

    Args:
        run: What to compare with.
        directory: The training directory of the broken run.
        before: Stage -> newest step that was complete before the fault.
        data: What it was trained on.
    """
    from minimagen.cli import train

    if not (directory / "parameters" / "data.json").is_file():  # stopped before it began
        assert not before
        return Recovery(False)
    after = readable(directory)
    assert all(after.get(stage, 0) >= step for stage, step in before.items()), (before, after)
    assert inference_reads(directory)
    code, text = call(train.entry, "-rd", directory, "--IN_PLACE", "--DEVICE", "cpu")
    assert code == 0, text
    assert same_bits(weights(directory), run.expected[data])
    assert inference_reads(directory)
    return Recovery(True, after, text)
