"""Captions encoded in advance, so that the encoder's memory is free while images are sampled."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from minimagen.learner import CaptionReader
from minimagen.text.encoding import TextEncoder, TokenReport, bucket


class Encoded:
    """Captions and their embeddings.

    Args:
        encoder: What encodes them, once; it is not kept.
        captions: All that will be asked for.
    """

    def __init__(self, encoder: CaptionReader, captions: Sequence[str]) -> None:
        unique = list(dict.fromkeys(captions))
        self._encoded = dict(zip(unique, encoder.encode(unique), strict=True))

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` tensor per caption."""
        return [self._encoded[caption] for caption in captions]

    def tokens(self, captions: Sequence[str]) -> int:
        """Return the length that a batch of these captions is padded to."""
        return bucket(max(len(self._encoded[caption]) for caption in captions))


class EncodedCaptions(Encoded):
    """Stands in for a text encoder, for captions that it has encoded; it takes over its notes."""

    def __init__(self, encoder: TextEncoder, captions: Sequence[str]) -> None:
        super().__init__(encoder, captions)
        self.name, self.embed_dim = encoder.name, encoder.embed_dim
        self.fingerprint = encoder.fingerprint
        self._reports = dict(zip(self._encoded, encoder.inspect([*self._encoded]), strict=True))
        self._notes = encoder.notes()

    def to(self, device: torch.device | str) -> Self:
        """Return it as it is: there is nothing to compute."""
        return self

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return how each caption was cut into tokens."""
        return [self._reports[caption] for caption in captions]

    def notes(self) -> list[str]:
        """Return, once, what the encoder had to say of the captions."""
        notes, self._notes = self._notes, []
        return notes
