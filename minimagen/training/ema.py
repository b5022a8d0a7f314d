"""The exponential moving average of a network's weights: what is kept, validated and sampled."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minimagen.training.processes.alone import Processes


class EMA:
    """A moving average of the parameters of ``module``, with a warm-up.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): early averages are short, so that
    the noise of the first weights does not linger. Each of ``processes`` averages what it holds.
    """

    def __init__(self, module: nn.Module, decay: float, processes: Processes | None = None) -> None:
        self._local = (processes or Processes()).local
        self.decay = decay
        self.updates = 0
        self._live = dict(module.named_parameters())
        self._average = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live, average = zip(*self._pairs(), strict=True)
        torch._foreach_lerp_(average, live, 1.0 - decay)
        self.updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the module have the average's values inside the ``with``."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # The values, not the storages: DDP and FSDP know the parameters by their memory.
        for live, average in self._pairs():
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def keep(self) -> None:
        """Let the module have the average's values from now on."""
        for live, average in self._pairs():
            live.copy_(average)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name, average in self._average.items():
            yield self._local(self._live[name].detach()), self._local(average)

    def state(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return dict(self._average)

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], updates: int) -> None:
        """Take over a saved average."""
        for name, average in self._average.items():
            average.copy_(state[name])
        self.updates = updates
