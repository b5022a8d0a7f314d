"""The exponential moving average of a network's weights: what is kept, validated and sampled."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """A moving average of the parameters of ``module``, with a warm-up.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): early averages are short, so that
    the noise of the first weights does not linger.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._names = [name for name, _ in module.named_parameters()]
        self._live = [p for _, p in module.named_parameters()]
        self._average = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._live], 1.0 - decay)
        self.updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the module have the average's values inside the ``with``."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for live, average in zip(self._live, self._average, strict=True):
            live.data, average.data = average.data, live.data

    def state(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return dict(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], updates: int) -> None:
        """Take over a saved average."""
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(state[name])
        self.updates = updates
