"""Text encoders of the benchmarks."""

import time
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from minimagen.text.encoding import TextEncoder, TokenReport
from minimagen.text.pretrained import PretrainedEncoder


class FixedEncoder:
    """A text encoder that costs nothing: ``tokens`` ones of width ``embed_dim`` per caption."""

    fingerprint = "fixed"

    def __init__(self, tokens: int, embed_dim: int) -> None:
        self.name, self.tokens, self.embed_dim = "fixed", tokens, embed_dim

    def to(self, device: torch.device | str) -> Self:
        """Stay on the CPU."""
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return [tokens embed_dim] per caption."""
        return list(torch.ones(len(captions), self.tokens, self.embed_dim))

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return the fixed number of tokens of each caption."""
        return [TokenReport(self.tokens, False)] * len(captions)

    def notes(self) -> list[str]:
        """Return nothing."""
        return []


class WideEncoder(FixedEncoder):
    """The bundled T5's embeddings, padded with zeros to the shape of t5_small's: 32 x 512.

    A training step costs as much as with t5_small, whose weights are not needed.
    """

    def __init__(self) -> None:
        super().__init__(32, 512)
        self.name, self._t5 = "t5_mini, widened", PretrainedEncoder("t5_mini", 32)

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return [32 512] per caption."""
        pad = torch.nn.functional.pad
        rows, width = self.tokens, self.embed_dim
        return [
            pad(e, (0, width - e.shape[1], 0, rows - len(e))) for e in self._t5.encode(captions)
        ]


class Clock(FixedEncoder):
    """Counts the seconds that another encoder takes."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__(1, encoder.embed_dim)
        self.encoder, self.seconds = encoder, 0.0

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return the other encoder's embeddings."""
        started = time.perf_counter()
        embeds = self.encoder.encode(captions)
        self.seconds += time.perf_counter() - started
        return embeds
