"""Processes that read: how many, how they start, what signals do to them, how errors arrive."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from minimagen.data.dataset import Dataset, count_of
from minimagen.data.images.dataset import CACHE_BYTES
from minimagen.errors import UserError

MOST_WORKERS = 8  # of each rank; more of them wait for the disk or for the rank


class Workers(NamedTuple):
    """How many processes read for each rank, and why so many."""

    number: int
    reason: str


def choose_workers(dataset: Dataset, device_type: str, cores: int, ranks: int) -> Workers:
    """Return the workers that suit ``dataset`` and the machine.

    Args:
        dataset: What is read.
        device_type: Where the networks train. Workers would take the cores from a CPU's.
        cores: Of this machine, those that the ranks on it may use together.
        ranks: Processes that train on this machine.
    """
    if device_type != "cuda":
        return Workers(0, f"the network trains on {device_type}")
    if sys.platform != "linux":
        return Workers(0, "they start slowly on this system")
    if not dataset.endless and (count := count_of(dataset)) is not None:
        largest = max(height * width for height, width in dataset.sizes)
        if dataset.description.get("crop") != "random" and 3 * count * largest <= CACHE_BYTES:
            return Workers(0, f"{count} decoded images stay in memory")
    number = max(0, min(MOST_WORKERS, cores // ranks - 1))
    return Workers(number, f"{cores} cores for {ranks} rank{'s' * (ranks > 1)}")


def usable_cores() -> int:
    """Return the cores that this process may use."""
    affinity = hasattr(os, "sched_getaffinity")  # Linux has it
    return len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1


def read_in_workers(source: Any, num_workers: int, **options: Any) -> Iterator[Any]:
    """Yield what torch's ``DataLoader(source, **options)`` does.

    Raises:
        UserError: as a worker raised it, without the traceback that torch puts into the message.
    """
    try:
        yield from DataLoader(
            source,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_parent,
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
            generator=torch.Generator(),  # the workers' base seed is not drawn from the global one
            **options,
        )
    except UserError as error:
        last = str(error).strip().splitlines()[-1]
        raise UserError(last.removeprefix("minimagen.errors.UserError: ")) from None


def leave_signals_to_parent(worker: int) -> None:
    """Let a worker outlive a signal to the whole process group: its parent saves, then ends it.

    A worker that ignored every SIGTERM would hang its parent: multiprocessing sends SIGTERM at exit
    to workers whose loader is still referenced (by a traceback, say), and waits for their end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # where it is missing, on macOS, torch's handler stays
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = multiprocessing.parent_process()
        assert parent is not None, "only workers come here"
        threading.Thread(target=_end_when_sent_by, args=(parent.pid,), daemon=True).start()


def _end_when_sent_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass  # sent to the whole group: the parent gets it too and decides
    os._exit(0)
