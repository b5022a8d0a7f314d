"""The processes that train one cascade together; here the usual case, one process alone.

``torchrun`` or ``accelerate launch`` starts several, see ``many.py``. Each takes its rows of every
global batch. Samples and random numbers depend on the row in the global batch, so the number of
processes changes nothing but the speed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from minimagen.draws import Draws
from minimagen.images import Batch
from minimagen.learner import Learner

T = TypeVar("T")
P = ParamSpec("P")
LossFunction = Callable[[Batch, Draws], Tensor]
RowFunction = Callable[[Tensor], Tensor]  # what it makes of a row does not depend on the others


class Processes:
    """One process alone.

    Attributes:
        rank: This process's number, from 0. Rank 0 writes and prints.
        world: The number of processes.
        sharded: Whether each process holds only its shard of every parameter.
        device: Where this process computes.
    """

    rank = 0
    world = 1
    sharded = False

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def __str__(self) -> str:
        return f"1 process on {self.device}"

    def prepare(self, learner: Learner) -> LossFunction:
        """Return ``learner.loss``, made ready so that its gradients are averaged over all ranks."""
        return learner.loss

    def unsynced(self, loss: LossFunction) -> AbstractContextManager[object]:
        """Return the context of a micro-batch that is not the last: gradients stay local."""
        return nullcontext()

    def mean(self, numbers: Tensor) -> Tensor:
        """Return the mean over all ranks, elementwise; the host does not wait for a GPU."""
        return numbers

    def largest(self, *numbers: int) -> list[int]:
        """Return the maximum over all ranks of each number."""
        return list(numbers)

    def local(self, tensor: Tensor) -> Tensor:
        """Return the shard of a parameter, or of its average, that this process holds."""
        return tensor

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor put together from its shards; every rank has to call it."""
        return tensor

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items that this rank computes; all ranks together compute every item."""
        return items

    def spread(self, function: RowFunction, groups: Sequence[Tensor]) -> list[Tensor]:
        """Return ``function(rows)`` of every group, [k ...] -> [k ...], computed by all ranks.

        Every rank has to call it, with groups of the same shapes; each gets all results.
        """
        return [function(rows) for rows in groups]

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors without shards on rank 0; on the other ranks possibly none."""
        return tensors

    def on_rank_0(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of ``act`` on rank 0 to all ranks, which wait for it."""
        return act(*args, **kwargs)

    def first_on_each_machine(self, act: Callable[[], T]) -> T:
        """Call ``act`` on one rank of each machine, then on the others, which find its caches."""
        return act()

    def together(self) -> AbstractContextManager[object]:
        """Return the context that raises a UserError of any rank on all ranks.

        So no rank waits for one that has ended.
        """
        return nullcontext()

    def in_step(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Return the batches of this rank as long as every rank has one.

        There is one exchange before each batch, between the hosts: no GPU is waited for.

        Raises:
            UserError: Of any rank, while it read a batch.
        """
        return iter(batches)
