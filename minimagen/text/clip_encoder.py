"""The text tower of a trained CLIP as a text encoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from minimagen.storage.pretrained import fingerprint_of
from minimagen.text.clip import Clip
from minimagen.text.encoding import TokenReport, bucket

BLOCK_SIZE = 32  # captions that run together, in one shape, so that each is the same in any batch


class ClipEncoder:
    """Gives the caption's vector as the first token, and the states of its tokens behind it.

    With ``pooled_only`` in its configuration it gives the vector alone. The vector has length
    sqrt(d) instead of 1: then its numbers are as large as those of the states.

    Args:
        clip: The CLIP.
        name: What the user calls it.
    """

    def __init__(self, clip: Clip, name: str = "clip") -> None:
        self.clip, self.name = clip, name
        self._cut: set[int] = set()  # hashes: a stream has many captions

    @property
    def embed_dim(self) -> int:
        """The width of an embedding: the larger one of vector and states."""
        config = self.clip.config
        return config.embed_dim if config.pooled_only else max(config.embed_dim, config.text.dim)

    @property
    def fingerprint(self) -> str:
        """What changes with the configuration, what the text tower reads, or the weights."""
        return fingerprint_as(self.clip, self.clip.config.pooled_only)

    def to(self, device: torch.device | str) -> Self:
        """Compute on ``device`` from now on."""
        self.clip.to(device)
        return self

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` float32 CPU tensor per caption, its vector first."""
        most = self.clip.config.text.max_length
        lengths = self.clip.lengths(captions)
        self._cut |= {hash(c) for c, n in zip(captions, lengths, strict=True) if n > most}
        alike = defaultdict(list)
        for i, length in enumerate(lengths):
            alike[bucket(min(length, most))].append(i)
        embeds: dict[int, Tensor] = {}
        training = self.clip.training
        self.clip.eval()
        for size, places in alike.items():
            for start in range(0, len(places), BLOCK_SIZE):
                block = places[start : start + BLOCK_SIZE]
                rows = self._encode_block([captions[i] for i in block], min(size, most))
                embeds |= dict(zip(block, rows, strict=True))
        self.clip.train(training)
        return [embeds[i] for i in range(len(captions))]

    def _encode_block(self, captions: list[str], size: int) -> list[Tensor]:
        full = captions + captions[:1] * (BLOCK_SIZE - len(captions))
        tokens, mask = self.clip.tokens_of(full)
        tokens, mask = _padded(tokens, size), _padded(mask, size)
        vectors, states = self.clip.text(tokens, mask)
        vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
        vectors = vectors * self.clip.config.embed_dim**0.5
        width = self.embed_dim
        first = pad(vectors, (0, width - vectors.shape[1]))[:, None]
        if self.clip.config.pooled_only:
            return [row.cpu().clone() for row in first[: len(captions)]]
        rest = pad(states.float(), (0, width - states.shape[2]))
        rows = torch.cat([first, rest], dim=1).cpu()
        lengths = mask.sum(1).tolist()
        return [rows[i, : 1 + lengths[i]].clone() for i in range(len(captions))]

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return the tokens of each caption; every letter is known, as bytes at least."""
        return [TokenReport(n, False) for n in self.clip.lengths(captions)]

    def notes(self) -> list[str]:
        """Return how many captions were cut."""
        most = self.clip.config.text.max_length
        return [f"{len(self._cut)} different captions were cut to {most} tokens"] * bool(self._cut)


def fingerprint_as(clip: Clip, pooled_only: bool) -> str:
    """Return the fingerprint of a CLIP as an encoder that gives the vector alone, or all."""
    text = clip.config.text
    what = (pooled_only, text.kind, text.max_length, clip.own_identity.reads)
    return fingerprint_of(clip.text, repr(what))


def _padded(tokens: Tensor, size: int) -> Tensor:
    """Return tokens [b n ...] cut or filled up with zeros to [b size ...]."""
    more = size - tokens.shape[1]
    return pad(tokens, (0, 0) * (tokens.ndim - 2) + (0, more))
