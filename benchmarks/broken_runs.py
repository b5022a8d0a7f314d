"""Training processes that are broken, and what is left of their directories afterwards."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measuring import ROOT, Row

STEPS, BETWEEN = 24, 3  # of both stages; steps between checkpoints
PRESET = ROOT / "parameters" / "testing"


@dataclass
class Run:
    """Where runs go, and what they are compared with."""

    folder: Path
    number: int = 0  # of the case, and what is random in it
    random: Random = field(default_factory=Random)
    seconds: float = 0.0  # that the run without a fault took once its directory was there
    expected: dict[str, Any] = field(default_factory=dict)  # data -> weights of that run

    @property
    def data(self) -> str:
        """Return where a folder of pictures to train on is."""
        return str(self.folder / "pictures")

    def preset(self) -> Path:
        """Return the tiny preset, with fewer picture sheets: they would take most of the time."""
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
        program = ["-m", "benchmarks.injected", *fault] if fault else [str(ROOT / "train.py")]
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

    def said(self) -> str:
        """Return what it printed."""
        return self.log.read_text("utf-8", errors="replace")


def parts(directory: Path) -> list[str]:
    """Return what is half written."""
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
    from minimagen.storage.checkpoint import load_newest

    with contextlib.redirect_stderr(io.StringIO()):  # the resumed run says it again
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
    """Tell whether two sets of weights are equal."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def call(entry: Callable[[list[str]], int], *arguments: object) -> tuple[int, str]:
    """Run a door in this process; return its exit code and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = entry([str(argument) for argument in arguments])
    return code, said.getvalue()


def inference_reads(directory: Path) -> bool:
    """Tell whether inference.py paints, or says in one line which weights do not exist yet."""
    from minimagen.cli import inference

    output = Path(tempfile.mkdtemp(dir=directory.parent)) / "pictures"
    code, said = call(inference.entry, "-d", directory, "-c", "a red star", "-t", 1, "-o", output)
    trained = directory / "state_dicts"
    missing = [i for i in range(2) if not (trained / f"unet_{i}.safetensors").exists()]
    if missing:
        return code == 2 and f"no trained weights for stage {missing[0]}" in said
    return code == 0 and any(output.rglob("image_0.png"))


def recover(run: Run, directory: Path, before: dict[int, int], data: str = "shapes") -> Row:
    """Look what a fault has left, resume in place, and look again.

    Args:
        run: What to compare with.
        directory: The training directory that was broken.
        before: Stage -> newest step that was complete before the fault.
        data: What it was trained on.
    """
    from minimagen.cli import train

    if not (directory / "parameters" / "data.json").is_file():  # stopped before it began
        return {"began": False, "lost": bool(before), "readable": True, "same_bits": True}
    after = readable(directory)
    row: Row = {"began": True, "before": before, "after": after}
    row["lost"] = any(after.get(stage, 0) < step for stage, step in before.items())
    row["readable"] = inference_reads(directory)
    code, said = call(train.entry, "-rd", directory, "--IN_PLACE", "--DEVICE", "cpu")
    row |= {"resumed": code, "damage_told": "damaged" in said or "incomplete" in said}
    row["same_bits"] = code == 0 and same_bits(weights(directory), run.expected[data])
    row["readable"] = row["readable"] and inference_reads(directory)
    return row
