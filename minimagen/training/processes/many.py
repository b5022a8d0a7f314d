"""Several processes: torch.distributed with the interface of ``Processes``.

DDP by default: every rank has the whole network and its rows of the batch, and gradients are
averaged. Sharded (FSDP2): every rank holds its shard of each weight, gradient and moment, and the
blocks of the network are gathered one at a time where they are needed.
"""

import atexit
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minimagen.device import resolve_device
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.learner import Learner
from minimagen.training.processes.alone import LossFunction, Processes, RowFunction

T = TypeVar("T")
P = ParamSpec("P")
SHUTDOWN_GRACE = 0.2  # seconds
LONGEST_WAIT = timedelta(hours=2)  # for what rank 0 does alone: sample sheets, downloads


class _Loss(nn.Module):
    """``learner.loss`` as the forward pass that DDP expects."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss of every example."""
        return self.learner.loss(batch, draws)


class ManyProcesses(Processes):
    """This process among those that a launcher started.

    Args:
        device: ``auto``, ``cuda`` or ``cpu``; each process has its own device of that kind.
        sharded: Whether each process holds only its shard of every parameter.

    Raises:
        UserError: If there is no such device for each process.
    """

    def __init__(self, device: str, sharded: bool) -> None:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        super().__init__(_own_device(device, local_rank))
        self._first_here = local_rank == 0
        if not dist.is_initialized():
            _begin(self.device)
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self.sharded = sharded

    def __str__(self) -> str:
        return (
            f"{self.world} processes ({'FSDP2' if self.sharded else 'DDP'}) on {self.device.type}"
        )

    def prepare(self, learner: Learner) -> LossFunction:
        """Wrap the learner's loss in DDP, or shard the learner in place."""
        if not self.sharded:
            devices = [self.device] if self.device.type == "cuda" else None
            return DistributedDataParallel(
                _Loss(learner), device_ids=devices, gradient_as_bucket_view=True
            )
        shard(learner, self.device.type)
        return super().prepare(learner)

    def unsynced(self, loss: LossFunction) -> AbstractContextManager[object]:
        """DDP: keep the gradients local. FSDP2 reduces each time: whole gradients do not fit."""
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()

    def mean(self, numbers: Tensor) -> Tensor:
        """Return the mean over all ranks, elementwise; the host does not wait for a GPU."""
        numbers = numbers.clone()
        dist.all_reduce(numbers)
        return numbers / self.world

    def largest(self, *numbers: int) -> list[int]:
        """Return the maximum over all ranks of each number, in one exchange of the hosts."""
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def local(self, tensor: Tensor) -> Tensor:
        """Return the shard of a parameter, or of its average, that this process holds."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor put together from its shards; every rank has to call it."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every ``world``-th item; all items where each forward pass needs all ranks."""
        return items if self.sharded else items[self.rank :: self.world]

    def spread(self, function: RowFunction, groups: Sequence[Tensor]) -> list[Tensor]:
        """Divide the rows of all groups, one group after the other, into equal parts by size."""
        if not groups:
            return []
        total, before = sum(rows.numel() for rows in groups), 0
        cuts: list[list[int]] = []  # of each group: where each process's rows begin, and the end
        for rows in groups:
            ends = [(r * total / self.world - before) / rows[0].numel() for r in range(self.world)]
            cuts.append([*(min(max(round(end), 0), len(rows)) for end in ends), len(rows)])
            before += rows.numel()
        divided = list(zip(groups, cuts, strict=True))
        sizes = [
            [rows[cut[r] : cut[r + 1]].numel() for rows, cut in divided] for r in range(self.world)
        ]
        found = groups[0].new_zeros(max(map(sum, sizes)))
        parts = found[: sum(sizes[self.rank])].split(sizes[self.rank])
        for (rows, cut), part in zip(divided, parts, strict=True):
            if len(part):
                part.copy_(function(rows[cut[self.rank] : cut[self.rank + 1]]).flatten())
        parts_of_all = [torch.empty_like(found) for _ in range(self.world)]
        dist.all_gather(parts_of_all, found)
        results = [
            part[: sum(size)].split(size) for part, size in zip(parts_of_all, sizes, strict=True)
        ]
        return [
            torch.cat(parts).view_as(rows) for rows, *parts in zip(groups, *results, strict=True)
        ]

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather the shards, one tensor at a time, and keep the results on rank 0."""
        if not self.sharded:
            return tensors
        found = {}
        for name, tensor in tensors.items():
            whole = self.whole(tensor)
            if self.rank == 0:
                found[name] = whole.cpu()
        return found

    def agree(self, error: UserError | None) -> None:
        """Raise the error of any rank on all ranks."""
        if self.largest(error is not None)[0]:
            errors: list[UserError | None] = [None] * self.world
            dist.all_gather_object(errors, error)
            raise next(e for e in errors if e is not None)

    def on_rank_0(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of ``act`` on rank 0 to all ranks, which wait for it."""
        result: list[T] = []
        with self.together():
            if self.rank == 0:
                result = [act(*args, **kwargs)]
        received = [*result, None][:1]
        dist.broadcast_object_list(received, device=torch.device("cpu"))
        return received[0]  # type: ignore[return-value]  # rank 0 has filled it

    def first_on_each_machine(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``act`` on one rank of each machine, then on the others, which find its caches."""
        result: list[T] = []
        for turn in (True, False):
            with self.together():
                if self._first_here == turn:
                    result.append(act(*args, **kwargs))
        return result[0]


def shard(learner: Learner, device_type: str) -> None:
    """Keep on every rank its shard of each parameter of ``learner`` (FSDP2).

    What ``learner.shardable()`` returns is gathered only while it computes, the rest of the learner
    from the beginning to the end of its ``loss`` or ``sample``.
    """
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    learner.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # all it takes
    modules: list[nn.Module] = [*learner.shardable(), learner]
    for module in modules:
        # The root's weights are sharded again after a forward pass too: an average that is
        # swapped in between two passes would not be seen otherwise.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for method in ("loss", "sample"):
        if hasattr(learner, method):
            register_fsdp_forward_method(learner, method)
    for module in modules:
        assert isinstance(module, FSDPModule)
        # The first gathering makes the tensors that all passes share. Made in inference mode, for
        # a sample sheet, they could carry no gradient.
        module.unshard()
        module.reshard()


def _own_device(device: str, local_rank: int) -> torch.device:
    """Return the device of this process, one of the kind ``device`` for each."""
    for name, kind in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UserError(
                f"accelerate is configured for {kind}: start with accelerate launch --multi_gpu "
                "or torchrun, and give `fsdp` to shard the networks"
            )
    kind = device.partition(":")[0]
    if kind not in ("auto", "cuda", "cpu") or ":" in device:
        raise UserError(f"`device` {device!r} with several processes: use auto, cuda or cpu")
    if resolve_device(device).type != "cuda":
        return torch.device("cpu")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes for {torch.cuda.device_count()} GPUs here: start one for each, or "
            "give cpu as `device`"
        )
    return torch.device("cuda", local_rank)


def _begin(device: torch.device) -> None:
    """Begin the process group; hosts exchange their own numbers over gloo."""
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    atexit.register(_end)


def _end() -> None:
    """End the process group."""
    # Gloo's thread needs Python's lock to free the last tensors, and the destructor of the group
    # holds that lock while it waits for the thread (torch 2.13): let the thread finish first.
    time.sleep(SHUTDOWN_GRACE)
    dist.destroy_process_group()
