"""Threads for the cores that are free: where other processes run, threads wait for each other."""

import os
import sys
import time
from pathlib import Path

WATCHED = 0.1  # seconds
STAT = Path("/proc/stat")  # on Linux
HINT = (
    "note: other processes use {busy} of {cores} cores; two threads then wait for each other most "
    "of the time, and OMP_NUM_THREADS={free} before the command may train several times as fast "
    "(the weights differ by rounding)"
)


def use_free_cores() -> None:
    """Give torch a thread for each core that nothing uses, at least one.

    It reads the number when it is imported. ``OMP_NUM_THREADS``, where it is set, stays.
    """
    cores, free = _cores()
    if free < cores:
        os.environ["OMP_NUM_THREADS"] = str(free)


def report_busy_cores() -> None:
    """Print a note where other processes use the cores. The weights depend on the threads' number.

    So it is not chosen here: a run that is resumed must have the same one.
    """
    cores, free = _cores()
    if free < cores:
        print(HINT.format(busy=cores - free, cores=cores, free=free), file=sys.stderr)


def _cores() -> tuple[int, int]:
    """Return the threads that torch would use, and the cores that are free for them, at least 1."""
    affinity = hasattr(os, "sched_getaffinity")  # Linux has it
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    if "OMP_NUM_THREADS" in os.environ or not STAT.is_file():
        return cores, cores
    return cores, max(1, min(cores, round(free_cores())))


def free_cores() -> float:
    """Return how many cores of this machine are idle, by watching them for a moment."""
    before, started = _idle_seconds(), time.monotonic()
    time.sleep(WATCHED)
    return (_idle_seconds() - before) / (time.monotonic() - started)


def _idle_seconds() -> float:
    """Return the seconds that all cores together were idle or waited for a disk."""
    idle, waiting = STAT.read_text().split("\n", 1)[0].split()[4:6]
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")
