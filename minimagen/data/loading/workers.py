"""Processes that read: how they start, what signals do to them, how their errors arrive."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from minimagen.errors import UserError


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
