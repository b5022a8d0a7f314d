"""Break a run on purpose, resume it, and look what was lost: nothing may be.

    python -m benchmarks.faults

A tiny cascade is trained once without a fault. Then, for every fault, it is trained in a process of
its own and broken; afterwards the directory must be readable by inference.py, no checkpoint that
was complete may be gone, and the resumed run must end with the same weights, to the bit.
"""

import hashlib
import json
import pickle
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.broken_runs import (
    STEPS,
    Process,
    Run,
    checkpoints,
    parts,
    readable,
    recover,
    weights,
)
from benchmarks.measuring import Row, append, build_parser, find, read_rows, results_folder

PICTURES = 300
SIGTERM_SECONDS = 30.0
AWAY_SECONDS = 3.0
TRIES = 20  # a process that ended before its fault came is started again


def random_moment(run: Run, signum: int) -> tuple[Process, Row]:
    """Stop a run by a signal at a random moment of its whole length."""
    for _ in range(TRIES):
        process = run.start(run.output())
        process.wait_for(process.output.exists)
        moment = run.random.random() * run.seconds
        until = time.monotonic() + moment
        process.wait_for(lambda until=until: time.monotonic() > until)  # type: ignore[misc]
        before = checkpoints(process.output)
        if process.popen.poll() is None:
            code = process.stop(signum, SIGTERM_SECONDS)
            return process, {"moment": moment, "exit_code": code, "before": before}
    raise RuntimeError(f"{TRIES} runs ended before they could be stopped")


def kill(run: Run) -> Row:
    """Kill -9 at a random moment of the whole run."""
    process, told = random_moment(run, signal.SIGKILL)
    told["in_write"] = parts(process.output)
    return recover(run, process.output, told["before"]) | told


def kill_in_write(run: Run) -> Row:
    """Kill -9 inside the write of a checkpoint or of weights, the first to the twelfth."""
    for _ in range(TRIES):
        process = run.start(run.output())
        folder = process.output / ("tmp" if run.number % 3 else "state_dicts")
        for number in range(run.random.randrange(12), -1, -1):
            process.wait_for(lambda: any(folder.glob("*.part")))  # noqa: B023
            if number:
                process.wait_for(lambda: not any(folder.glob("*.part")))  # noqa: B023
        before = checkpoints(process.output)
        if process.popen.poll() is None:
            process.stop(signal.SIGKILL)
        if half := parts(process.output):
            return recover(run, process.output, before) | {"in_write": half}
    raise RuntimeError(f"no write was caught in {TRIES} runs")


def sigterm(run: Run) -> Row:
    """SIGTERM at a random moment, with 30 s to live: not even a step may be lost."""
    process, told = random_moment(run, signal.SIGTERM)
    row = recover(run, process.output, told["before"]) | told
    if told["exit_code"] == 128 + signal.SIGTERM:
        words = process.said().partition("interrupted after step ")[2].split()
        step, stage = int(words[0]), int(words[3].rstrip(";"))
        row["lost"] = row["after"].get(stage) != step
    else:  # nobody listens before there is anything to save, nor after all is saved
        idle = told["before"] in ({}, {0: STEPS, 1: STEPS})
        row["lost"] |= told["exit_code"] != -signal.SIGTERM or not idle
    return row


def full_disk(run: Run) -> Row:
    """A disk that fills up: a small tmpfs, or an injected error where none can be mounted."""
    folder = Path(tempfile.mkdtemp(dir=run.folder))
    size = run.random.randrange(1000, 8000)
    tmpfs = ["tmpfs", "minimagen", str(folder)]
    mounted = _succeeds("mount", "-o", f"size={size}k", "-t", *tmpfs)
    try:
        fault = () if mounted else ("full_disk", str(run.random.randrange(3, 20)))
        process = run.start(folder / "run", fault=fault)
        code, before = process.end(), checkpoints(folder / "run")
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        row = recover(run, folder / "run", before)
        row["said"] = code == 2 and _one_line(process, "No space left on device")
        return row | {"exit_code": code, "mounted": mounted, "size_kib": size}
    finally:
        if mounted:
            _succeeds("umount", str(folder))


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _one_line(process: Process, words: str) -> bool:
    """Tell whether a run ended with one line of error that holds ``words``, no traceback."""
    said = process.said()
    errors = [line for line in said.splitlines() if "error: " in line]
    return len(errors) == 1 and words in errors[0] and "Traceback" not in said


def _killed_late(run: Run) -> Path:
    """Return a copy of a run that was killed when its last stage had two checkpoints."""
    template = run.folder / "killed late"
    if not template.exists():
        process = run.start(run.output())
        wanted = process.output / "tmp" / "unet_1_step_00000009" / "manifest.json"
        process.wait_for(wanted.exists)
        process.stop(signal.SIGKILL)
        process.output.rename(template)
    copy = run.output()
    shutil.copytree(template, copy)
    return copy


def _damaged(run: Run, damage: Callable[[Path], None]) -> Row:
    """Damage a file of the newest checkpoint of a stage: the one before must be used, and told."""
    directory = _killed_late(run)
    stage = run.random.randrange(2)
    folders = sorted((directory / "tmp").glob(f"unet_{stage}_step_????????"))
    names = ["tensors.safetensors", "tensors.safetensors", "state.json", "manifest.json"]
    damage(folders[-1] / run.random.choice(names))
    before = checkpoints(directory) | {stage: int(folders[-2].name[-8:])}
    row = recover(run, directory, before)
    return row | {"said": row["damage_told"] and row["after"][stage] == before[stage]}


def truncated(run: Run) -> Row:
    """A checkpoint's file loses its end."""

    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: run.random.randrange(len(content))])

    return _damaged(run, cut)


def bit_flip(run: Run) -> Row:
    """One bit of a checkpoint's file is another."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[run.random.randrange(len(content))] ^= 1 << run.random.randrange(8)
        path.write_bytes(content)

    return _damaged(run, flip)


class Planted:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def pickle_in_checkpoint(run: Run) -> Row:
    """A pickle in the place of a checkpoint's file, with a manifest that fits."""
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

    row = _damaged(run, plant)
    after, before = row["after"], row["before"]  # its message speaks of another kind of damage
    return row | {"said": after == before, "code_ran": mark.exists()}


def nan_batch(run: Run) -> Row:
    """A batch whose loss is no number: the run stops with the weights before it."""
    step = run.random.randrange(1, STEPS)
    process = run.start(run.output(), fault=("nan_batch", str(step)))
    code, before = process.end(), {0: STEPS, 1: step}
    row = recover(run, process.output, before)
    said = code == 1 and "try a lower --OPTIM_LR" in process.said()
    return row | {"exit_code": code, "said": said and row["after"] == before}


def _taken_away(run: Run, fault: str) -> tuple[Process, Path, Path]:
    """Start a run on a folder of pictures and take them away while it reads them."""
    data = Path(run.data)
    away = data.with_name("away")
    process = run.start(run.output(), fault=(fault, "0"), data=run.data)
    sheet = process.output / "samples" / "stage_0_step_00000000.png"
    process.wait_for(sheet.exists)  # it is painted just before the training pictures are read
    time.sleep(0.3 * run.random.random())
    data.rename(away)
    return process, data, away


def data_comes_back(run: Run) -> Row:
    """The pictures vanish for 3 s: the run waits, and ends as if nothing had been."""
    process, data, away = _taken_away(run, "far_away")
    time.sleep(AWAY_SECONDS)
    away.rename(data)
    code, said = process.end(), process.said()
    row = recover(run, process.output, {0: STEPS, 1: STEPS}, run.data)
    told = said.count("the data is away") == said.count("the data is back") == 1
    return row | {"exit_code": code, "said": code == 0 and told and "skipped" not in said}


def data_stays_away(run: Run) -> Row:
    """The pictures vanish for longer than the run waits: it ends in one line."""
    process, data, away = _taken_away(run, "impatient")
    code, before = process.end(), checkpoints(process.output)
    away.rename(data)
    row = recover(run, process.output, before, run.data)
    said = code == 2 and _one_line(process, "the data has been away")
    return row | {"exit_code": code, "said": said}


class Fault(NamedTuple):
    """What is done how often."""

    do: Callable[[Run], Row]
    times: int


FAULTS = {
    fault.do.__name__: fault
    for fault in (
        Fault(kill, 35),
        Fault(kill_in_write, 15),
        Fault(sigterm, 10),
        Fault(full_disk, 5),
        Fault(truncated, 5),
        Fault(bit_flip, 5),
        Fault(pickle_in_checkpoint, 4),
        Fault(nan_batch, 3),
        Fault(data_comes_back, 3),
        Fault(data_stays_away, 2),
    )
}


def prepare(run: Run) -> None:
    """Train without a fault, on drawn data and on a folder: this is what must come out."""
    from minimagen.shapes.export import export_shapes

    export_shapes(Path(run.data), PICTURES, 32)
    for data in ("shapes", run.data):
        process = run.start(run.output(), data=data)
        process.wait_for(process.output.exists)
        started = time.monotonic()
        if process.end() != 0:
            raise RuntimeError(f"the run without a fault failed:\n{process.said()}")
        run.seconds = run.seconds or time.monotonic() - started
        run.expected[data] = weights(process.output)
        assert readable(process.output) == {0: STEPS, 1: STEPS}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its new rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    arguments = parser.parse_args(argv)
    where, rows = results_folder(arguments), []
    old = [] if arguments.again else read_rows("faults", where)
    cases = [
        {"fault": name, "number": number}
        for name in arguments.only
        for number in range(1 if arguments.quick else FAULTS[name].times)
    ]
    cases = [case for case in cases if find(old, case) is None]
    if not cases:
        return []
    import torch

    torch.set_num_threads(1)  # as the broken processes have: bits may depend on it
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        prepare(run)
        for case in cases:
            run.number = int(case["number"])
            run.random = Random(f"{case['fault']} {run.number}")
            row = append("faults", case, FAULTS[case["fault"]].do(run), where)
            rows.append(row)
            print(json.dumps(row["case"] | {key: row.get(key) for key in SHOWN}), flush=True)
    return rows


SHOWN = ("lost", "readable", "same_bits", "said", "exit_code", "in_write")

if __name__ == "__main__":
    main()
