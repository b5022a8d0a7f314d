"""The processes that train one cascade together; here the usual case, one process alone.

``accelerate launch`` or ``torchrun`` starts several, see ``distributed.py``. Each takes its rows of
every global batch. As the samples and all random numbers depend on the row in the global batch,
their number changes nothing but the speed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch

T = TypeVar("T")
LossFunction = Callable[[Batch, Draws], Tensor]
RowFunction = Callable[[Tensor], Tensor]  # what it makes of a row does not depend on the others


class Processes:
    """One process alone.

    Attributes:
        rank: This process's number, from 0.
        world: How many there are.
        sharded: Whether each holds only its share of the weights.
        device: Where this one computes.
    """

    rank = 0
    world = 1
    sharded = False

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Tell whether this process is the one that writes and prints."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"1 process on {self.device}"

    def prepare(self, stage: nn.Module) -> LossFunction:
        """Return ``stage.loss``, made ready so that its gradients are averaged over all."""
        return lambda batch, draws: stage.loss(batch, draws)  # type: ignore[operator]

    def unsynced(self, loss: LossFunction) -> AbstractContextManager[object]:
        """Return the context of a micro-batch that is not the last: gradients stay here."""
        return nullcontext()

    def mean(self, number: float) -> float:
        """Return the mean of everybody's number."""
        return number

    def most(self, number: int) -> int:
        """Return the largest of everybody's numbers."""
        return number

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items that this process computes; together they make up all."""
        return items

    def spread(self, function: RowFunction, groups: Sequence[Tensor]) -> list[Tensor]:
        """Return ``function(rows)`` of every group, [k ...] -> [k ...]; each process computes some
        rows for all. Everybody has to call it, with groups of the same shapes.
        """
        return [function(rows) for rows in groups]

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with all their shards, in the main process; elsewhere maybe none."""
        return tensors

    def agree(self, error: UserError | None) -> None:
        """Raise, in every process, the error of any of them; nobody waits for one that is gone."""
        if error is not None:
            raise error

    def on_main(self, act: Callable[[], T]) -> T:
        """Let the main process act, the others wait, and return its result to all."""
        return act()

    def first_here(self, act: Callable[[], T]) -> T:
        """Let one process of each machine act first: the others find its downloads and caches."""
        return act()

    def end(self) -> None:
        """Take leave of the others."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let a mistake that one process finds inside the ``with`` end all."""
        found: UserError | None = None
        try:
            yield
        except UserError as error:
            found = error
        self.agree(found)

    def in_step(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, before each agreeing that every process has one: else all end."""
        remaining = iter(batches)
        while True:
            with self.together():
                batch = next(remaining, None)
            if self.most(batch is None) or batch is None:
                return
            yield batch
