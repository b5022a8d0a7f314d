"""Several processes: torch.distributed with the interface of ``Processes``.

DDP by default: every rank has the whole network and its rows of the batch, and gradients are
averaged. Sharded (FSDP2): every rank holds its shard of each weight, gradient and moment, and the
blocks of the network are gathered one at a time where they are needed.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import NoReturn, ParamSpec, TypeVar

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
        if not dist.is_initialized():
            _begin(self.device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.sharded = sharded
        self._first_here = local_rank == 0

    def __str__(self) -> str:
        kind = "FSDP2" if self.sharded else "DDP"
        return f"{self.world} processes ({kind}) on {self.device.type}"

    def prepare(self, learner: Learner) -> LossFunction:
        """Wrap the learner's loss in DDP, or shard the learner in place."""
        if self.sharded:
            _shard(learner, self.device.type)
            return learner.loss
        devices = [self.device] if self.device.type == "cuda" else None
        loss = _Loss(learner)
        return DistributedDataParallel(loss, device_ids=devices, gradient_as_bucket_view=True)

    def unsynced(self, loss: LossFunction) -> AbstractContextManager[object]:
        """DDP: keep the gradients local. FSDP2 reduces each time: whole gradients do not fit."""
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()

    def mean(self, numbers: Tensor) -> Tensor:
        """Return the mean over all ranks by one sum."""
        numbers = numbers.clone()
        dist.all_reduce(numbers)
        return numbers / self.world

    def largest(self, *numbers: int) -> list[int]:
        """Return the maximum of each number, in one exchange of the hosts."""
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def local(self, tensor: Tensor) -> Tensor:
        """Return this rank's shard."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather the shards."""
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
        parts = [
            [rows[cut[r] : cut[r + 1]] for rows, cut in zip(groups, cuts, strict=True)]
            for r in range(self.world)
        ]
        sizes = [[part.numel() for part in own] for own in parts]
        mine = groups[0].new_zeros(max(map(sum, sizes)))
        places = mine[: sum(sizes[self.rank])].split(sizes[self.rank])
        for part, place in zip(parts[self.rank], places, strict=True):
            if len(part):
                place.copy_(function(part).flatten())
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        results = [each[: sum(size)].split(size) for each, size in zip(found, sizes, strict=True)]
        return [torch.cat(own).view_as(rows) for rows, *own in zip(groups, *results, strict=True)]

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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Exchange the errors at the end of the ``with``."""
        found: UserError | None = None
        try:
            yield
        except UserError as error:
            found = error
        if self.largest(found is not None)[0]:
            self._raise_first(found)

    def in_step(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Exchange before each batch whether every rank has one."""
        remaining = iter(batches)
        while True:
            batch, error = None, None
            try:
                batch = next(remaining, None)
            except UserError as found:
                error = found
            wrong, ended = self.largest(error is not None, batch is None)
            if wrong:
                self._raise_first(error)
            if ended or batch is None:
                return
            yield batch

    def _raise_first(self, error: UserError | None) -> NoReturn:
        """Raise the error of the first rank that has one on all ranks."""
        errors: list[UserError | None] = [None] * self.world
        dist.all_gather_object(errors, error)
        raise next(each for each in errors if each is not None)

    def on_rank_0(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Broadcast the result of rank 0."""
        result: list[T | None] = [None]
        with self.together():
            if self.rank == 0:
                result = [act(*args, **kwargs)]
        dist.broadcast_object_list(result, device=torch.device("cpu"))
        return result[0]  # type: ignore[return-value]  # rank 0 has filled it

    def first_on_each_machine(self, act: Callable[[], T]) -> T:
        """Let the first rank of each machine act before the others."""
        result: list[T] = []
        for turn in (True, False):
            with self.together():
                if self._first_here == turn:
                    result.append(act())
        return result[0]


def _shard(learner: Learner, device_type: str) -> None:
    """Keep on every rank its shard of each parameter; ``shardable()`` parts are gathered singly."""
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    learner.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # all it takes
    modules: list[nn.Module] = [*learner.shardable(), learner]
    for module in modules:
        # The root's weights are sharded again after a forward pass too: an average that is
        # swapped in between two passes would not be seen otherwise.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for method in learner.entry_points:
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
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    atexit.register(_end)


def _end() -> None:
    # Gloo's thread needs Python's lock to free the last tensors, and the destructor of the group
    # holds that lock while it waits for the thread (torch 2.13): let the thread finish first.
    time.sleep(SHUTDOWN_GRACE)
    dist.destroy_process_group()
