"""How long do ``--help`` and mistakes take? Each less than a second, without torch.

    python -m benchmarks.startup

All entry points are measured. Each command runs in its own process, round after round, so that a
slow moment of the machine does not affect one command alone. A last run under ``-X importtime``
shows whether torch was loaded.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import (
    ROOT,
    Row,
    append,
    build_parser,
    find,
    read_rows,
    results_folder,
    spread,
)

LIMIT = 1.0  # seconds


def commands(folder: Path) -> dict[str, tuple[int, list[str]]]:
    """Return name -> (expected exit code, arguments of Python); writes into ``folder``."""
    misspelt, wrong = folder / "misspelt", folder / "wrong"
    for copy in (misspelt, wrong):
        shutil.copytree(ROOT / "parameters", copy, ignore=lambda d, _: _folders(d))
    _change(misspelt / "imagen.json", "image_sizes", "image_size")
    _change(wrong / "training.json", '"batch_size": ', '"batch_size": -')
    empty = folder / "empty.txt"
    empty.touch()
    package = ["-m", "minimagen"]
    return {
        "python, nothing else": (0, ["-c", "pass"]),
        "train.py --help": (0, ["train.py", "--help"]),
        "inference.py --help": (0, ["inference.py", "--help"]),
        "python -m minimagen --help": (0, [*package, "--help"]),
        "python -m minimagen train --help": (0, [*package, "train", "--help"]),
        "python -m minimagen inference --help": (0, [*package, "inference", "--help"]),
        "python -m minimagen evaluate --help": (0, [*package, "evaluate", "--help"]),
        "python -m minimagen data --help": (0, [*package, "data", "--help"]),
        "train.py, unknown flag": (2, ["train.py", "--BATCHSIZE", "2"]),
        "train.py, value out of range": (2, ["train.py", "--BATCH_SIZE", "0"]),
        "train.py, two of EPOCHS and STEPS": (2, ["train.py", "--EPOCHS", "1", "--STEPS", "1"]),
        "train.py, no such parameters": (2, ["train.py", "-p", str(folder / "nowhere")]),
        "train.py, misspelt key in imagen.json": (2, ["train.py", "-p", str(misspelt)]),
        "train.py, wrong value in training.json": (2, ["train.py", "-p", str(wrong)]),
        "inference.py, unknown flag": (2, ["inference.py", "--CAPTION", "a star"]),
        "inference.py, no such directory": (2, ["inference.py", "-d", str(folder / "nowhere")]),
        "inference.py, empty captions file": (2, ["inference.py", "-c", str(empty)]),
        "python -m minimagen, unknown command": (2, [*package, "trian"]),
        "python -m minimagen evaluate, unknown flag": (2, [*package, "evaluate", "--SPLITS"]),
    }


def _folders(directory: str) -> list[str]:
    return [path.name for path in Path(directory).iterdir() if path.is_dir()]


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text, f"{path} no longer holds {old}"
    path.write_text(text.replace(old, new, 1), "utf-8")


def run(arguments: Sequence[str], right: int) -> float:
    """Return the seconds of one run.

    Raises:
        RuntimeError: It ended with another exit code than ``right``.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode != right:
        output = done.stdout + done.stderr
        raise RuntimeError(f"{arguments} ended with {done.returncode}, not {right}:\n{output}")
    return seconds


def loads(arguments: Sequence[str], package: str) -> bool:
    """Return whether a command imports a package."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return any(line.endswith(f"| {package}") for line in map(_squeezed, done.stderr.splitlines()))


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time every command ``arguments.repeats`` times and append one row each."""
    where, rows = results_folder(arguments), []
    with tempfile.TemporaryDirectory() as folder:
        todo = commands(Path(folder))
        if arguments.quick:
            todo = dict(list(todo.items())[:9:8])
        old = [] if arguments.again else read_rows("startup", where)
        todo = {name: v for name, v in todo.items() if find(old, {"command": name}) is None}
        seconds: dict[str, list[float]] = {name: [] for name in todo}
        for _ in range(arguments.repeats):
            for name, (right, command) in todo.items():
                seconds[name].append(run(command, right))
        for name, (right, command) in todo.items():
            row = {"seconds": spread(seconds[name]), "loads_torch": loads(command, "torch")}
            row |= {"exit_code": right, "limit": LIMIT}
            rows.append(append("startup", {"command": name}, row, where))
            print(json.dumps({"command": name} | row), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its new rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--repeats", type=int, help="runs of each command [15; quick 2]")
    arguments = parser.parse_args(argv)
    arguments.repeats = arguments.repeats or (2 if arguments.quick else 15)
    return measure(arguments)


if __name__ == "__main__":
    main()
