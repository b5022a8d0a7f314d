"""What a text encoder gives to the cascade: embeddings, and which of them are real tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from minimagen.learner import CaptionReader


@dataclass(frozen=True)
class TextEncoding:
    """A batch of encoded captions.

    Attributes:
        embeds: ``[b, n, d]`` float32; padded positions are exactly zero.
        mask: ``[b, n]`` bool, True = real token.
    """

    embeds: Tensor
    mask: Tensor

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Return embeddings and mask."""
        return self.embeds, self.mask

    def to(self, device: torch.device | str) -> TextEncoding:
        """Return the same encoding on ``device``."""
        return TextEncoding(self.embeds.to(device), self.mask.to(device))


class TokenReport(NamedTuple):
    """What an encoder makes of one caption."""

    tokens: int
    """Tokens before anything is cut, the end-of-sequence token included."""
    unknown: bool
    """The vocabulary has none of the caption's letters: all such captions are encoded alike."""


class TextEncoder(Protocol):
    """A frozen model that turns captions into sequences of embeddings.

    Attributes:
        name: What the user calls it, for example ``"t5_mini"``.
    """

    name: str

    @property
    def embed_dim(self) -> int:
        """The width ``d`` of an embedding, known without loading any weights."""
        ...

    @property
    def fingerprint(self) -> str:
        """What changes whenever the embeddings of a caption would; loads no weights."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Compute on ``device`` from now on; what is returned stays on the CPU."""
        ...

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` float32 CPU tensor per caption, ``n_i >= 1``, without padding."""
        ...

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return how each caption is cut into tokens; encodes nothing."""
        ...

    def notes(self) -> list[str]:
        """Return what a user should know of the captions encoded so far, one line each."""
        ...


def encode_batch(encoder: CaptionReader, captions: Sequence[str], tokens: int = 0) -> TextEncoding:
    """Return the encodings of ``captions`` as one batch on the CPU, of ``tokens`` or more."""
    return pad_and_stack(encoder.encode(captions), tokens)


def padded(text: TextEncoding, length: int) -> TextEncoding:
    """Return a batch padded to ``length`` tokens, at least as many as it has."""
    from torch.nn.functional import pad

    more = length - text.mask.shape[1]
    return TextEncoding(pad(text.embeds, (0, 0, 0, more)), pad(text.mask, (0, more)))


BUCKETS = (8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens that a batch is padded to; above, multiples of the last one."""


def bucket(length: int) -> int:
    """Return the length that a batch whose longest caption has ``length`` tokens is padded to."""
    fitting = (size for size in BUCKETS if size >= length)
    return next(fitting, -(-length // BUCKETS[-1]) * BUCKETS[-1])


def pad_and_stack(embeds: Sequence[Tensor], tokens: int = 0) -> TextEncoding:
    """Stack sequences of different lengths into one batch, zeros behind the shorter ones.

    All text reaches the networks through here, in training and in sampling. Few lengths mean few
    shapes to compile for. The rounding to bfloat16 is what the cache on disk stores: an embedding
    is the same whether it comes from there or fresh from the encoder.

    Args:
        embeds: one ``[n_i, d]`` tensor per caption, ``n_i >= 1``, all of one width.
        tokens: the least ``n``.

    Returns:
        The encoding, float32 with the precision of bfloat16, ``n`` = ``bucket`` of the longest or
        ``tokens``, if that is more.

    Raises:
        ValueError: there is no sequence, or one of them is empty: attention over a row without a
            single real token is undefined.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = torch.tensor([len(sequence) for sequence in embeds])
    if len(lengths) == 0 or int(lengths.min()) == 0:
        raise ValueError("every caption needs at least one token, and there must be a caption")
    padded = pad_sequence([sequence.to(torch.bfloat16) for sequence in embeds], batch_first=True)
    size = max(tokens, bucket(padded.shape[1]))
    padded = torch.nn.functional.pad(padded, (0, 0, 0, size - padded.shape[1])).float()
    mask = torch.arange(size) < lengths[:, None]
    return TextEncoding(padded, mask.to(padded.device))
