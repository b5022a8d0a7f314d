"""Codes of several channels, as finite scalar quantization has them, and vectors for codes.

A code is a number with one digit for each channel, the first channel's digit counts ones
(arXiv 2309.15505).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimagen.config.networks import CodeVectorKind


def digits_of(codes: Tensor, levels: Sequence[int]) -> Tensor:
    """Return the digit of each channel, int64 [... c].

    Args:
        codes: int64 [...], from 0 to the product of ``levels`` - 1.
        levels: How many values the digit of each of the c channels has.
    """
    digits = []
    for count in levels:
        digits.append(codes % count)
        codes = codes // count
    return torch.stack(digits, dim=-1)


class CodeVectors(nn.Module):
    """A vector for each code: its own, the sum of its digits' vectors, or both added.

    What is learned of a digit is known of all codes that have it: as a head, digit vectors alone
    make the channels' probabilities independent of each other. Where there are both, a code's own
    vector begins at 0.

    Args:
        kind: ``table`` for own vectors, ``channels`` for those of digits, ``both``.
        codes: How many there are.
        dim: Width of the vectors.
        levels: How many values the digit of each channel has; not needed for ``table``.
    """

    def __init__(
        self, kind: CodeVectorKind, codes: int, dim: int, levels: Sequence[int] = ()
    ) -> None:
        super().__init__()
        own = None if kind == "channels" else nn.Parameter(torch.empty(codes, dim))
        self.register_parameter("weight", own)
        self.register_parameter("channels", None)
        if kind != "table":
            firsts = torch.tensor([sum(levels[:i]) for i in range(len(levels))])
            places = digits_of(torch.arange(codes), levels) + firsts
            self.register_buffer("places", places, persistent=False)
            self.channels = nn.Parameter(torch.empty(sum(levels), dim))
        self.begin()

    weight: nn.Parameter | None
    channels: nn.Parameter | None
    places: Tensor
    """Rows of ``channels`` that a code's digits have, [codes c]."""

    def begin(self, std: float = 0.02) -> None:
        """Draw the vectors anew."""
        if self.channels is not None:
            nn.init.normal_(self.channels, std=std)
        if self.weight is not None:
            nn.init.normal_(self.weight, std=std if self.channels is None else 0.0)

    def forward(self) -> Tensor:
        """Return all vectors, [codes dim]."""
        if self.channels is None:
            assert self.weight is not None
            return self.weight
        summed = F.embedding_bag(self.places, self.channels, mode="sum")
        return summed if self.weight is None else summed + self.weight
