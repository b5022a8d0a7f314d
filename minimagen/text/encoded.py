"""Captions encoded in advance, so that the encoder's memory is free while images are sampled."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from minimagen.text.encoding import TextEncoder, TokenReport, bucket


class EncodedCaptions:
    """Stands in for a text encoder, for captions that it has encoded.

    Args:
        encoder: What encodes them, once; it is not kept.
        captions: All that will be asked for.
        batch_size: Captions encoded at once.
    """

    def __init__(self, encoder: TextEncoder, captions: Sequence[str], batch_size: int = 64) -> None:
        self.name, self.embed_dim = encoder.name, encoder.embed_dim
        self.fingerprint = encoder.fingerprint
        unique = list(dict.fromkeys(captions))
        self._encoded: dict[str, Tensor] = {}
        for start in range(0, len(unique), batch_size):
            part = unique[start : start + batch_size]
            self._encoded |= zip(part, encoder.encode(part), strict=True)
        self._reports = dict(zip(unique, encoder.inspect(unique), strict=True))
        self._notes = encoder.notes()

    def to(self, device: torch.device | str) -> Self:
        """Return it as it is: there is nothing to compute."""
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` tensor per caption."""
        return [self._encoded[caption] for caption in captions]

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return how each caption was cut into tokens."""
        return [self._reports[caption] for caption in captions]

    def notes(self) -> list[str]:
        """Return, once, what the encoder had to say of the captions."""
        notes, self._notes = self._notes, []
        return notes

    def tokens(self, captions: Sequence[str]) -> int:
        """Return the length that a batch of these captions is padded to."""
        return bucket(max(len(self._encoded[caption]) for caption in captions))
