"""The contract of one link of the cascade: condition -> pictures, and its training loss.

The trainer asks only for ``loss``, the cascade only for ``sample``; a stage's contract is pictures,
so any kind of stage can be followed by super-resolution stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from minimagen.config import SamplingConfig, Size
from minimagen.draws import Draws
from minimagen.images import Batch

Callback = Callable[[int, int, Tensor], None]
"""Called after each sampling step with (step, number of steps, the estimate of the pictures)."""


@dataclass(frozen=True)
class Condition:
    """What a stage paints from.

    Attributes:
        text_embeds: float [b n d].
        text_mask: bool [b n], True = real token.
        low_res: The previous stage's pictures in model space [b 3 h w]; None for the first stage.
        size: (height, width) of the pictures to paint, where they are not the stage's own.
    """

    text_embeds: Tensor
    text_mask: Tensor
    low_res: Tensor | None = None
    size: Size | None = None


class Stage(Protocol):
    """One link of the cascade."""

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the training loss of every example, float32 [b]."""

    def sample(
        self,
        condition: Condition,
        seeds: Sequence[int],
        sampling: SamplingConfig | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return one picture per row of ``condition``, model space, clamped to [-1, 1]."""
