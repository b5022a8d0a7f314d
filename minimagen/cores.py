"""The cores of this machine: how many there are for this process, and how many nothing else uses.

Linux says what its cores do; elsewhere all count as free. torch is not imported here: it reads the
number of its threads when it is.
"""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
WATCHED = 0.1  # seconds


def usable_cores() -> int:
    """Return how many cores this process may use."""
    affinity = hasattr(os, "sched_getaffinity")  # Linux has it
    return len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1


def chosen_threads() -> bool:
    """Return whether the user chose the number of threads."""
    return "OMP_NUM_THREADS" in os.environ


class CoreWatch:
    """Counts the cores that other processes leave free, from one look to the next.

    Args:
        most: The most that are counted; by default those that this process may use.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most or usable_cores()
        self._begun, self._left = time.monotonic(), self._seconds()

    def look(self) -> int:
        """Return the number of cores that were idle or this process's since the last look.

        It is rounded, and at least 1.
        """
        now, left = time.monotonic(), self._seconds()
        passed, self._begun = max(now - self._begun, 1e-6), now
        free, self._left = (left - self._left) / passed, left
        return max(1, min(self._most, round(free)))

    def _seconds(self) -> float:
        """Return the seconds that all cores together were idle, waited for a disk or were ours."""
        if not STAT.is_file():
            return usable_cores() * time.monotonic()
        idle, waiting = STAT.read_text().split("\n", 1)[0].split()[4:6]
        return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK") + time.process_time()


def free_cores() -> int:
    """Watch the cores for a moment; return how many other processes leave free."""
    watch = CoreWatch()
    time.sleep(WATCHED)
    return watch.look()
