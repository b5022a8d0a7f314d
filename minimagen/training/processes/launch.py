"""The processes that a launcher started, or this one alone."""

import os

import torch

from minimagen.device import resolve_device
from minimagen.errors import UserError
from minimagen.training.processes.alone import Processes


def launched(device: str | torch.device = "auto", sharded: bool = False) -> Processes:
    """Return the processes that a launcher started, this one alone where there was none.

    The process group begins with the first call, and ends with the program.

    Args:
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        sharded: Whether each process is to hold only its shard of every parameter (FSDP2).

    Raises:
        UserError: The device does not exist here, or one process alone is to be sharded.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from minimagen.training.processes.many import ManyProcesses  # FSDP2 takes time to import

        return ManyProcesses(str(device), sharded)
    if sharded:
        raise UserError(
            "`fsdp` shards networks over several processes, and this is one: start them with "
            "torchrun --nproc_per_node 2 train.py ..., or leave out `fsdp`"
        )
    return Processes(resolve_device(device))
