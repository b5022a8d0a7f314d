"""Break a run on purpose and resume it: nothing is lost, and the weights are the same to the bit.

A tiny cascade is trained once without a fault. Then, for every fault, it is trained in a process of
its own and broken at a moment that the fault's number determines.
"""

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from tests.robustness.damage import Planted
from tests.robustness.runs import (
    STEPS,
    Process,
    Recovery,
    Run,
    checkpoints,
    parts,
    readable,
    recover,
    weights,
)

IMAGES = 300
SIGTERM_SECONDS = 30.0
UNAVAILABLE_SECONDS = 3.0
TRIES = 20  # a process that ended before its fault came is started again
MORE = int(os.environ.get("MINIMAGEN_FAULTS", "1"))  # times as many of each fault

pytestmark = pytest.mark.slow


def times(count: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("number", range(count * MORE))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train without a fault, on drawn data and on a folder: this is what must come out."""
    from minimagen.shapes.dataset import ShapesDataset
    from minimagen.shapes.export import export_drawn

    torch.set_num_threads(1)  # as the broken processes have: bits may depend on it
    run = Run(tmp_path_factory.mktemp("runs"))
    export_drawn(Path(run.data), ShapesDataset(size=32, epoch_size=IMAGES))
    for data in ("shapes", run.data):
        process = run.start(run.output(), data=data)
        process.wait_for(process.output.exists)
        started = time.monotonic()
        assert process.end() == 0, process.output_text()
        run.seconds = run.seconds or time.monotonic() - started
        run.expected[data] = weights(process.output)
        assert readable(process.output) == {0: STEPS, 1: STEPS}
    return run


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    return Random(request.node.name)


def stopped_at_random(run: Run, random: Random, signum: int) -> tuple[Process, dict[int, int], int]:
    """Stop a run by a signal at a random moment; return it, its checkpoints and its exit code."""
    for _ in range(TRIES):
        process = run.start(run.output())
        process.wait_for(process.output.exists)
        until = time.monotonic() + random.random() * run.seconds
        process.wait_for(lambda until=until: time.monotonic() > until)  # type: ignore[misc]
        before = checkpoints(process.output)
        if process.popen.poll() is None:
            return process, before, process.stop(signum, SIGTERM_SECONDS)
    raise RuntimeError(f"{TRIES} runs ended before they could be stopped")


@times(4)
def test_a_kill_at_any_moment(run: Run, random: Random, number: int) -> None:
    process, before, _ = stopped_at_random(run, random, signal.SIGKILL)
    recover(run, process.output, before)


@times(3)
def test_a_kill_inside_the_write_of_checkpoints_and_weights(
    run: Run, random: Random, number: int
) -> None:
    for _ in range(TRIES):
        process = run.start(run.output())
        folder = process.output / ("tmp" if number % 3 else "state_dicts")
        for remaining in range(random.randrange(12), -1, -1):
            process.wait_for(lambda: any(folder.glob("*.part")))  # noqa: B023
            if remaining:
                process.wait_for(lambda: not any(folder.glob("*.part")))  # noqa: B023
        before = checkpoints(process.output)
        if process.popen.poll() is None:
            process.stop(signal.SIGKILL)
        if parts(process.output):
            recover(run, process.output, before)
            return
    raise RuntimeError(f"no write was caught in {TRIES} runs")


@times(3)
def test_sigterm_loses_not_even_a_step(run: Run, random: Random, number: int) -> None:
    process, before, code = stopped_at_random(run, random, signal.SIGTERM)
    after = recover(run, process.output, before).after
    if code == 128 + signal.SIGTERM:
        words = process.output_text().partition("interrupted after step ")[2].split()
        step, stage = int(words[0]), int(words[3].rstrip(";"))
        assert after.get(stage, 0) == step
    else:  # it is not handled before there is anything to save, nor after all is saved
        assert code == -signal.SIGTERM and before in ({}, {0: STEPS, 1: STEPS})


@times(1)
def test_a_disk_that_fills_up(run: Run, random: Random, number: int) -> None:
    """A small tmpfs, or an injected error where none can be mounted."""
    folder = Path(tempfile.mkdtemp(dir=run.folder))
    size = random.randrange(1000, 8000)
    mounted = _succeeds("mount", "-o", f"size={size}k", "-t", "tmpfs", "minimagen", str(folder))
    try:
        fault = () if mounted else ("full_disk", str(random.randrange(3, 20)))
        process = run.start(folder / "run", fault=fault)
        code, before = process.end(), checkpoints(folder / "run")
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        recover(run, folder / "run", before)
        assert code == 2
        assert_one_line(process, "No space left on device")
    finally:
        if mounted:
            _succeeds("umount", str(folder))


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def assert_one_line(process: Process, words: str) -> None:
    """The run ended with one line of error that holds ``words``, no traceback."""
    text = process.output_text()
    errors = [line for line in text.splitlines() if "error: " in line]
    assert len(errors) == 1 and words in errors[0] and "Traceback" not in text, text


@pytest.fixture(scope="module")
def killed_late(run: Run) -> Path:
    """A run that was killed when its last stage had two checkpoints."""
    process = run.start(run.output())
    wanted = process.output / "tmp" / "unet_1_step_00000009" / "manifest.json"
    process.wait_for(wanted.exists)
    process.stop(signal.SIGKILL)
    return process.output


def recover_damaged(
    run: Run, random: Random, killed_late: Path, damage: Callable[[Path], None]
) -> Recovery:
    """Damage a file of the newest checkpoint of a stage: the one before must be used."""
    directory = run.output()
    shutil.copytree(killed_late, directory)
    stage = random.randrange(2)
    folders = sorted((directory / "tmp").glob(f"unet_{stage}_step_????????"))
    names = ["tensors.safetensors", "tensors.safetensors", "state.json", "manifest.json"]
    damage(folders[-1] / random.choice(names))
    before = checkpoints(directory) | {stage: int(folders[-2].name[-8:])}
    recovery = recover(run, directory, before)
    assert recovery.after == before
    return recovery


def reported(recovery: Recovery) -> bool:
    return "damaged" in recovery.text or "incomplete" in recovery.text


@times(2)
def test_a_truncated_checkpoint(run: Run, random: Random, killed_late: Path, number: int) -> None:
    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: random.randrange(len(content))])

    assert reported(recover_damaged(run, random, killed_late, cut))


@times(2)
def test_a_flipped_bit(run: Run, random: Random, killed_late: Path, number: int) -> None:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)

    assert reported(recover_damaged(run, random, killed_late, flip))


@times(2)
def test_a_pickle_in_a_checkpoint_is_not_loaded(
    run: Run, random: Random, killed_late: Path, number: int
) -> None:
    """Its manifest fits."""
    mark = run.output()

    def plant(path: Path) -> None:
        content = pickle.dumps(Planted(mark))
        path.write_bytes(content)
        manifest = path.with_name("manifest.json")
        if path != manifest:
            files = json.loads(manifest.read_text("utf-8"))
            digest = hashlib.sha256(content).hexdigest()
            files[path.name] = {"bytes": len(content), "sha256": digest}
            manifest.write_text(json.dumps(files), "utf-8")

    recover_damaged(run, random, killed_late, plant)
    assert not mark.exists()


@times(1)
def test_a_loss_that_is_not_a_number(run: Run, random: Random, number: int) -> None:
    """The run stops with the weights before it."""
    step = random.randrange(1, STEPS)
    process = run.start(run.output(), fault=("nan_batch", str(step)))
    code, before = process.end(), {0: STEPS, 1: step}
    assert recover(run, process.output, before).after == before
    assert code == 1 and "try a lower" in process.output_text()


def started_and_moved(run: Run, random: Random, fault: str) -> tuple[Process, Path, Path]:
    """Start a run on a folder of images and move the folder while they are read."""
    data = Path(run.data)
    elsewhere = data.with_name("elsewhere")
    process = run.start(run.output(), fault=(fault, "0"), data=run.data)
    sheet = process.output / "samples" / "stage_0_step_00000000.png"
    process.wait_for(sheet.exists)  # it is written just before the training images are read
    time.sleep(0.3 * random.random())
    data.rename(elsewhere)
    return process, data, elsewhere


@times(1)
def test_data_that_comes_back_is_waited_for(run: Run, random: Random, number: int) -> None:
    process, data, elsewhere = started_and_moved(run, random, "slow_data")
    time.sleep(UNAVAILABLE_SECONDS)
    elsewhere.rename(data)
    code, text = process.end(), process.output_text()
    recover(run, process.output, {0: STEPS, 1: STEPS}, run.data)
    assert code == 0 and "skipped" not in text
    assert text.count("the data is unavailable") == text.count("the data is back") == 1


@times(1)
def test_data_that_stays_unavailable_ends_the_run(run: Run, random: Random, number: int) -> None:
    process, data, elsewhere = started_and_moved(run, random, "impatient")
    code, before = process.end(), checkpoints(process.output)
    elsewhere.rename(data)
    recover(run, process.output, before, run.data)
    assert code == 2
    assert_one_line(process, "the data has been unavailable")
