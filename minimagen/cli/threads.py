"""Threads for the cores that are free: where other processes run, threads wait for each other."""

import os
import sys

from minimagen.cores import chosen_threads, free_cores, usable_cores

HINT = (
    "note: other processes use {busy} of {cores} cores; two threads then wait for each other most "
    "of the time, and OMP_NUM_THREADS={free} before the command may train several times as fast "
    "(the weights differ by rounding); a training by --MINUTES chooses its threads itself"
)


def use_free_cores() -> None:
    """Give torch a thread for each core that nothing uses, at least one.

    It reads the number when it is imported. ``OMP_NUM_THREADS``, where it is set, stays.
    """
    if not chosen_threads() and (free := free_cores()) < usable_cores():
        os.environ["OMP_NUM_THREADS"] = str(free)


def report_busy_cores() -> None:
    """Print a note where other processes use the cores. The weights depend on the threads' number.

    So it is not chosen here: a run that is resumed must have the same one.
    """
    if not chosen_threads() and (free := free_cores()) < (cores := usable_cores()):
        print(HINT.format(busy=cores - free, cores=cores, free=free), file=sys.stderr)
