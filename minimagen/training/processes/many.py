"""Several processes: accelerate and torch.distributed behind the face of ``Processes``.

DDP by default: every process has the whole network and its rows of the batch, and gradients are
averaged. Sharded (FSDP2): every process holds its share of each weight, gradient and moment, and
the blocks of the network are put together one at a time where they are needed.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from minimagen.device import resolve_device
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.training.processes.alone import LossFunction, Processes, RowFunction

T = TypeVar("T")
FAREWELL = 0.2  # seconds
LONGEST_WAIT = timedelta(hours=2)  # for what the main process does alone: sheets, downloads


class _Loss(nn.Module):
    """``stage.loss`` as the forward pass that DDP wants to see."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss of every example."""
        return self.stage.loss(batch, draws)  # type: ignore[operator]


class ManyProcesses(Processes):
    """This process among those that a launcher started.

    Args:
        device: ``auto``, ``cuda`` or ``cpu``; each process has its own of that kind.
        sharded: Whether each holds only its share of the weights.

    Raises:
        UserError: If there is no such device for each process.
    """

    def __init__(self, device: str, sharded: bool) -> None:
        self._accelerator = _accelerator(device)
        super().__init__(self._accelerator.device)
        self.rank = self._accelerator.process_index
        self.world = self._accelerator.num_processes
        self.sharded = sharded

    def __str__(self) -> str:
        return (
            f"{self.world} processes ({'FSDP2' if self.sharded else 'DDP'}) on {self.device.type}"
        )

    def prepare(self, stage: nn.Module) -> LossFunction:
        """Wrap the stage's loss in DDP, or shard the stage in place."""
        self._accelerator.free_memory()  # it keeps what it prepared, also an earlier stage
        if not self.sharded:
            return self._accelerator.prepare_model(_Loss(stage))
        shard(stage, self.device.type)
        return super().prepare(stage)

    def unsynced(self, loss: LossFunction) -> AbstractContextManager[object]:
        """DDP: keep the gradients here. FSDP2 reduces each time: it has no room for whole ones."""
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()

    def mean(self, number: float) -> float:
        """Return the mean of everybody's number."""
        return float(self._reduced(number, torch.float64, dist.ReduceOp.SUM)) / self.world

    def most(self, number: int) -> int:
        """Return the largest of everybody's numbers."""
        return int(self._reduced(number, torch.int64, dist.ReduceOp.MAX))

    def _reduced(self, number: float, dtype: torch.dtype, how: dist.ReduceOp.RedOpType) -> Tensor:
        tensor = torch.tensor(number, dtype=dtype, device=self.device)
        dist.all_reduce(tensor, how)
        return tensor

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every ``world``-th item; all of them where each forward pass needs everybody."""
        return items if self.sharded else items[self.rank :: self.world]

    def spread(self, function: RowFunction, groups: Sequence[Tensor]) -> list[Tensor]:
        """Share the rows out by their size, in one line from the first group to the last."""
        if not groups:
            return []
        total, before = sum(rows.numel() for rows in groups), 0
        cuts: list[list[int]] = []  # of each group: where each process's rows begin, and the end
        for rows in groups:
            ends = [(r * total / self.world - before) / rows[0].numel() for r in range(self.world)]
            cuts.append([*(min(max(round(end), 0), len(rows)) for end in ends), len(rows)])
            before += rows.numel()
        both = list(zip(groups, cuts, strict=True))
        sizes = [
            [rows[cut[r] : cut[r + 1]].numel() for rows, cut in both] for r in range(self.world)
        ]
        found = groups[0].new_zeros(max(map(sum, sizes)))
        parts = found[: sum(sizes[self.rank])].split(sizes[self.rank])
        for (rows, cut), part in zip(both, parts, strict=True):
            if len(part):
                part.copy_(function(rows[cut[self.rank] : cut[self.rank + 1]]).flatten())
        everybody = [torch.empty_like(found) for _ in range(self.world)]
        dist.all_gather(everybody, found)
        theirs = [e[: sum(size)].split(size) for e, size in zip(everybody, sizes, strict=True)]
        return [
            torch.cat(parts).view_as(rows) for rows, *parts in zip(groups, *theirs, strict=True)
        ]

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put shards together, one tensor at a time, and keep them in the main process."""
        if not self.sharded:
            return tensors
        found = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor()  # type: ignore[attr-defined]  # everybody gives its shard
            if self.is_main:
                found[name] = full.cpu()
        return found

    def agree(self, error: UserError | None) -> None:
        """Raise, in every process, the error of any of them."""
        if self.most(error is not None):
            raise next(e for e in gather_object([error]) if e is not None)

    def on_main(self, act: Callable[[], T]) -> T:
        """Let the main process act, the others wait, and return its result to all."""
        result: list[T | None] = [None]
        with self.together():
            if self.is_main:
                result = [act()]
        return broadcast_object_list(result)[0]

    def first_here(self, act: Callable[[], T]) -> T:
        """Let one process of each machine act, then its neighbours."""
        result: list[T] = []
        for turn in (True, False):
            with self.together():
                if self._accelerator.is_local_main_process == turn:
                    result.append(act())
        return result[0]

    def end(self) -> None:
        """Wait for all, then end the process group."""
        self._accelerator.wait_for_everyone()
        # Gloo's thread needs Python's lock to let go of the last tensors, and the destructor of the
        # group waits for that thread with the lock in its hands (torch 2.13): let it finish first.
        time.sleep(FAREWELL)
        self._accelerator.end_training()


def shard(stage: nn.Module, device_type: str) -> None:
    """Give every process its share of each parameter of ``stage`` (FSDP2).

    What ``stage.shardable()`` returns is put together only while it computes; the rest of the stage
    from its ``loss`` or ``sample`` to the end of it.
    """
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    stage.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # all it takes
    modules: list[nn.Module] = [*getattr(stage, "shardable", list)(), stage]
    for module in modules:
        # Also the root's weights are divided again after a forward pass: an average that is
        # swapped in between two passes would not be seen otherwise.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for method in ("loss", "sample"):
        if hasattr(stage, method):
            register_fsdp_forward_method(stage, method)
    for module in modules:
        assert isinstance(module, FSDPModule)
        # The first time makes the tensors that all passes share: were it a sheet's, in inference
        # mode, no gradient could be computed with them.
        module.unshard()
        module.reshard()


def _accelerator(device: str) -> Accelerator:
    """Return accelerate's view of the processes: DDP and nothing else, precision stays ours."""
    for name, kind in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UserError(
                f"accelerate is configured for {kind}: start with accelerate launch --multi_gpu "
                "or torchrun, and give `fsdp` to shard the networks"
            )
    kind = device.partition(":")[0]
    if kind not in ("auto", "cuda", "cpu") or ":" in device:
        raise UserError(f"`device` {device!r} with several processes: use auto, cuda or cpu")
    cpu = resolve_device(device).type != "cuda"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not cpu and here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes for {torch.cuda.device_count()} GPUs here: start one for each, or "
            "give cpu as `device`"
        )
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    waiting = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[ddp, waiting])
