"""The cores of this machine: how many there are for this process, and how many nothing else uses.

Linux says what its cores do; elsewhere all count as free. torch is not imported here: it reads the
number of its threads when it is.
"""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
WATCHED = 0.1  # seconds
LEAST = 1.0  # seconds from one look to the next: the system counts in hundredths
LIKE = 1 / 8  # of a number of cores: what differs by less is the same


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(_cores())


def chosen_threads() -> bool:
    """Return whether the user chose the number of threads."""
    return "OMP_NUM_THREADS" in os.environ


class CoreWatch:
    """Counts the cores that other processes leave free, from one look to the next.

    Processes that this one started count as others.

    Args:
        most: The most that are counted; by default those that this process may use.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = self._free = most or usable_cores()
        self._begun, self._left = time.monotonic(), _seconds_left()

    def look(self) -> int:
        """Return the number of cores that were idle or this process's since the last look.

        It is rounded and at least 1; soon after a look, and where it hardly differs, it is that of
        the last look.
        """
        now, left = time.monotonic(), _seconds_left()
        if now - self._begun >= LEAST:
            free = _whole((left - self._left) / (now - self._begun), self._most)
            self._begun, self._left = now, left
            if abs(free - self._free) >= LIKE * self._free:
                self._free = free
        return self._free


def free_cores() -> int:
    """Watch the cores for a moment; return how many other processes leave free, at least 1."""
    if not STAT.is_file():
        return usable_cores()
    begun, left = time.monotonic(), _seconds_left()
    time.sleep(WATCHED)
    return _whole((_seconds_left() - left) / (time.monotonic() - begun), usable_cores())


def _whole(free: float, most: int) -> int:
    """Return a number of cores, from 1 to ``most``."""
    return max(1, min(most, round(free)))


def _cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    affinity = hasattr(os, "sched_getaffinity")  # Linux has it
    return os.sched_getaffinity(0) if affinity else set(range(os.cpu_count() or 1))


def _seconds_left() -> float:
    """Return the seconds that these cores were idle, waited for a disk or were this process's."""
    if not STAT.is_file():
        return usable_cores() * time.monotonic()
    names, ticks = {f"cpu{i}" for i in _cores()}, 0
    for line in STAT.read_text().splitlines():
        name, *counts = line.split()
        if name in names:
            ticks += int(counts[3]) + int(counts[4])
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()
