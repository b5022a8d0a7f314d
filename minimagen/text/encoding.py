"""What a text encoder gives to the cascade: embeddings, and which of them are real tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class TextEncoding:
    """A batch of encoded captions.

    Attributes:
        embeds: ``[b, n, d]`` float32; padded positions are exactly zero.
        mask: ``[b, n]`` bool, True = real token.
    """

    embeds: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> TextEncoding:
        """Return the same encoding on ``device``."""
        return TextEncoding(self.embeds.to(device), self.mask.to(device))


class TextEncoder(Protocol):
    """Anything that turns captions into sequences of embeddings.

    Attributes:
        name: what the user calls it, for example ``"t5_mini"``.
        embed_dim: ``d``, known without loading any weights.
    """

    name: str

    @property
    def embed_dim(self) -> int:
        """The width ``d`` of an embedding."""
        ...

    @property
    def cut_captions(self) -> int:
        """How many different captions were longer than it takes, and were cut, so far."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Compute on ``device`` from now on; what is returned stays on the CPU."""
        ...

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` float32 CPU tensor per caption, ``n_i >= 1``, without padding."""
        ...

    def __call__(self, captions: Sequence[str]) -> TextEncoding:
        """Return all captions in one padded batch."""
        ...


def pad_and_stack(embeds: Sequence[Tensor]) -> TextEncoding:
    """Stack sequences of different lengths into one batch, zeros behind the shorter ones.

    Args:
        embeds: one ``[n_i, d]`` tensor per caption, ``n_i >= 1``, all of one width.

    Returns:
        The encoding, ``n`` = the longest sequence.

    Raises:
        ValueError: there is no sequence, or one of them is empty: attention over a row without a
            single real token is undefined.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = torch.tensor([len(sequence) for sequence in embeds])
    if len(lengths) == 0 or int(lengths.min()) == 0:
        raise ValueError("every caption needs at least one token, and there must be a caption")
    padded = pad_sequence(list(embeds), batch_first=True)
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    return TextEncoding(padded, mask.to(padded.device))
