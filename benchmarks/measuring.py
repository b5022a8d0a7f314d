"""What every benchmark shares: cases, rows on disk, own processes, clocks, memory, peaks.

A case is a JSON object that says what is measured; a row is its result, with the machine, the
versions and the date. Rows are appended to ``results/<name>.jsonl``; a case that has a row from
this machine is not measured again, so an interrupted benchmark continues where it stopped.
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Case = dict[str, Any]
Row = dict[str, Any]
Measure = Callable[[Case, float], Row]
"""Case and the time (``time.time()``) at which its process started -> what was measured."""

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "diffusers", "transformers", "minimagen")


def build_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny, in seconds: a smoke test")
    parser.add_argument("--again", action="store_true", help="also measure cases that have a row")
    parser.add_argument("--results", type=Path, help="where the rows go [benchmarks/results]")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # both for a benchmark's own processes
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    return parser


def numbers(text: str) -> list[int]:
    """Return whole numbers with commas between them; a type for argparse."""
    return [int(part) for part in text.split(",")]


def names_of(names: Collection[str]) -> Callable[[str], list[str]]:
    """Return a type for argparse: some of ``names``, with commas between them."""

    def chosen(text: str) -> list[str]:
        given = text.split(",")
        unknown = [name for name in given if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown {unknown[0]!r}; give some of {', '.join(names)}"
            )
        return given

    return chosen


def add_names(
    parser: argparse.ArgumentParser,
    flag: str,
    names: Collection[str],
    default: Sequence[str] | None = None,
    shown: str = "all",
) -> None:
    """Add a flag that takes some of ``names``; the ``default``, all, is ``shown`` in the help."""
    chosen = list(names if default is None else default)
    text = f"of {', '.join(names)} [{shown}]"
    parser.add_argument(flag, type=names_of(names), default=chosen, help=text)


def results_folder(arguments: argparse.Namespace) -> Path:
    """Return where rows go; quick rows are kept apart from real ones."""
    return arguments.results or (RESULTS / "quick" if arguments.quick else RESULTS)


def run_cases(
    module: str, cases: Iterable[Case], measure: Measure, arguments: argparse.Namespace
) -> list[Row]:
    """Measure the cases that have no row yet, each in its own process, and append their rows.

    Args:
        module: The benchmark, such as ``benchmarks.step``; its last part names the file of rows.
        cases: What to measure, in this order; a generator may look at the rows so far.
        measure: Used here in quick mode, where starting processes would take longest.
        arguments: From ``build_parser``.

    Returns:
        The row of every case, old or new.
    """
    name, folder = module.rpartition(".")[2], results_folder(arguments)
    rows = []
    for case in cases:
        found = None if arguments.again else find(read_rows(name, folder), case)
        if found is None:
            started = time.time()
            measured = measure(case, started) if arguments.quick else in_own_process(module, case)
            found = append(name, case, measured, folder)
            print(json.dumps(_numbers(case) | _numbers(measured)), flush=True)
        rows.append(found)
    return rows


def answer(arguments: argparse.Namespace, measure: Measure) -> bool:
    """In a benchmark's own process: measure the one case, print it, and return True."""
    if arguments.case is None:
        return False
    print(json.dumps(measure(json.loads(arguments.case), arguments.started)))
    return True


def in_own_process(module: str, case: Case) -> Row:
    """Measure a case in a new process, so that no memory or cache stays from the one before.

    Its ``environment``, if it has one, is added to that of the process.

    Raises:
        RuntimeError: The process failed; its own message is above.
    """
    command = [sys.executable, "-m", module, "--case", json.dumps(case)]
    done = subprocess.run(
        [*command, "--started", repr(time.time())],
        cwd=ROOT,
        env=os.environ | case.get("environment", {}),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed on {json.dumps(case)}:\n{done.stdout}")
    return json.loads(done.stdout.splitlines()[-1])


def append(name: str, case: Case, measured: Row, folder: Path = RESULTS) -> Row:
    """Append one row to ``<folder>/<name>.jsonl`` and return it."""
    facts = {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": _commit(), "machine": machine()}
    row = json.loads(json.dumps({"case": case} | measured | facts))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def read_rows(name: str, folder: Path = RESULTS) -> list[Row]:
    """Return all rows of a benchmark, oldest first; none if it never ran."""
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        return []
    return [_renamed(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


RENAMED = {
    "all_right": "fully_correct",
    "calls_per_picture": "calls_per_image",
    "pictures": "images",
    "sampling_seconds_per_picture": "sampling_seconds_per_image",
    "seconds_per_picture": "seconds_per_image",
}
"""Keys of rows and cases that were stored under another name -> their name today."""


def _renamed(row: Row) -> Row:
    case = {RENAMED.get(key, key): value for key, value in row["case"].items()}
    return {RENAMED.get(key, key): value for key, value in row.items()} | {"case": case}


PRESET = "preset_hash"
"""The key of a case that tells a preset's files of one day from those of another."""


def find(rows: Sequence[Row], case: Case) -> Row | None:
    """Return the newest row of this case that this machine measured."""
    case, here = json.loads(json.dumps(case)), machine()["name"]
    found = [row for row in rows if row["case"] == case and row["machine"]["name"] == here]
    return found[-1] if found else None


def machine() -> Row:
    """Return what the figures depend on: processor, its cores, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"{_processor()}, {cores} core{'s' if cores != 1 else ''}"
    torch = sys.modules.get("torch")  # the start-up benchmark must not wait for torch
    if torch is not None and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    versions = {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES}
    return {"name": name, "versions": versions}


def fingerprint(*configs: Any) -> str:
    """Return eight characters that change with any setting of the (pydantic) ``configs``."""
    text = json.dumps([config.model_dump(mode="json") for config in configs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def spread(values: Sequence[float]) -> Row:
    """Return median, quartiles and number of repeated measurements."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else list(values) * 3
    return {"median": statistics.median(values), "quartiles": [low, high], "n": len(values)}


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (nan of a single value)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def time_steps(
    step: Callable[[], object], repeats: int, warmup: int, device: "torch.device"
) -> list[float]:
    """Return the seconds of ``repeats`` calls after ``warmup`` calls, waiting for the device."""
    seconds = []
    for i in range(warmup + repeats):
        started = time.perf_counter()
        step()
        synchronize(device)
        if i >= warmup:
            seconds.append(time.perf_counter() - started)
    return seconds


def synchronize(device: "torch.device") -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


class PeakMemory:
    """``with PeakMemory(device) as peak: ...``; then ``peak.row()``, bytes.

    On a GPU it is what torch allocated there. On a CPU it is the resident memory of the whole
    process; the row also has its value before, as libraries alone take some hundred megabytes.
    """

    def __init__(self, device: "torch.device") -> None:
        self.device = device
        self.before = self.peak = 0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            self._forget_peak()
            self.before = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            import torch

            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            # Linux adds its counters up late: the peak can lie some pages below what was resident.
            self.peak = max(self.before, _resident("VmHWM"))

    def row(self) -> Row:
        """Return the peak and what was in use before, bytes."""
        return {"peak_bytes": self.peak, "bytes_before": self.before}

    @staticmethod
    def _forget_peak() -> None:
        path = Path("/proc/self/clear_refs")  # Linux; elsewhere the peak is that of the process
        if path.exists():
            path.write_text("5")


def private_bytes() -> int:
    """Return this process's anonymous memory in bytes: that of no mapped file.

    On systems other than Linux it is the largest resident memory so far.
    """
    return _resident("RssAnon")


def matmul_peak(device: "torch.device", dtype: "torch.dtype", sizes: Sequence[int]) -> float:
    """Return the best FLOP/s of square matrix products of the given sizes on this machine."""
    import torch

    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        seconds = min(time_steps(lambda a=a, b=b: a @ b, 5, 2, device))  # type: ignore[misc]
        best = max(best, 2 * n**3 / seconds)
    return best


def growth_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return k of the least-squares fit y = c x^k."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def peak_of_children() -> int:
    """Return the resident memory of the largest process that was started here and has ended, B."""
    return _largest(resource.RUSAGE_CHILDREN)


def _largest(whose: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(whose).ru_maxrss * unit


def _resident(field: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return _largest(resource.RUSAGE_SELF)
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit that was measured, with + where files differ from it."""
    try:
        command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git, or not a clone
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    if package == "minimagen":
        from minimagen import __version__

        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(measured: Row) -> Row:
    """Return the values that fit on a line of the screen."""
    return {key: v for key, v in measured.items() if isinstance(v, int | float | str)}
