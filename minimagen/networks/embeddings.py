"""Vectors and tokens that condition a U-Net: noise levels and captions.

Letters of shapes: b batch, n tokens, d width.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from minimagen.networks.dot_product import attend

KeysValues = tuple[Tensor, Tensor]  # each [b heads n head_dim]


class NoiseLevelEmbedding(nn.Module):
    """log-SNR [b] -> [b dim]: sines and cosines, then a two-layer perceptron."""

    frequencies: Tensor

    def __init__(self, dim: int, features: int = 64) -> None:
        super().__init__()
        # log-SNR spans [-20, 20]: periods from 2 pi / 4 (fine) to 2 pi * 32 (the whole range).
        # (Not torch.linspace: once transformers has loaded a model, it makes that one on the CPU,
        # also for networks on the meta device.)
        steps = torch.arange(features // 2) / (features // 2 - 1)
        frequencies = torch.exp(math.log(1 / 32) + math.log(128.0) * steps)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.project = nn.Linear(features, dim)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, log_snr: Tensor) -> Tensor:
        """Embed ``log_snr`` [b]."""
        angles = rearrange(log_snr.float(), "b -> b 1") * self.frequencies
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.mlp(self.project(features.to(self.project.weight.dtype)))


@dataclass(frozen=True)
class TextContext:
    """What the network needs of the captions; independent of the noise level, so made only once.

    Attributes:
        pooled: [b d], added to the noise-level embedding.
        keys_values: One pair per attention layer that reads text, in the network's order.
        mask: bool [b n], True = real token.
    """

    pooled: Tensor
    keys_values: tuple[KeysValues, ...]
    mask: Tensor

    def rows(self, count: int) -> "TextContext":
        """Return the context of the first ``count`` rows."""
        pairs = tuple((k[:count], v[:count]) for k, v in self.keys_values)
        return TextContext(self.pooled[:count], pairs, self.mask[:count])


class TextTokens(nn.Module):
    """Text embeddings -> normalised tokens, with the learned null token for dropped captions."""

    def __init__(self, text_embed_dim: int, cond_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_embed_dim, cond_dim)
        self.norm = nn.LayerNorm(cond_dim)  # Imagen, section 2.5
        self.null_token = nn.Parameter(torch.randn(cond_dim))

    def forward(self, embeds: Tensor, mask: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens [b n cond_dim] and their mask [b n].

        Args:
            embeds: [b n text_embed_dim].
            mask: bool [b n], True = real token.
            drop: bool [b]; True replaces the whole caption by the one null token, mask True.
        """
        tokens = self.norm(self.project(embeds))
        first = torch.arange(embeds.shape[1], device=mask.device) == 0
        dropped = rearrange(drop, "b -> b 1 1")
        tokens = torch.where(dropped, self.null_token.to(tokens.dtype), tokens)
        return tokens, torch.where(rearrange(drop, "b -> b 1"), first, mask)


class AttentionPooling(nn.Module):
    """Tokens [b n d] -> one vector [b out]: learned queries attend to the real tokens.

    Several queries of several heads each, because a caption is several facts: one average of its
    tokens would not distinguish the color of the object from that of the background.
    """

    def __init__(self, dim: int, out: int, heads: int = 8, queries: int = 4) -> None:
        super().__init__()
        self.heads = math.gcd(dim, heads)
        self.query = nn.Parameter(torch.randn(1, self.heads, queries, dim // self.heads))
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(queries * dim),
            nn.Linear(queries * dim, out),
            nn.SiLU(),
            nn.Linear(out, out),
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pool ``tokens`` where ``mask`` is True."""
        keys, values = (split_heads(x, self.heads) for x in self.to_kv(tokens).chunk(2, dim=-1))
        query = self.query.to(keys.dtype).expand(len(tokens), -1, -1, -1)
        pooled = attend(query, keys, values, rearrange(mask, "b n -> b 1 1 n"))
        return self.mlp(rearrange(pooled, "b heads n d -> b (n heads d)"))


def split_heads(x: Tensor, heads: int, norm: nn.Module | None = None) -> Tensor:
    """Rearrange [b n (heads d)] to [b heads n d], after normalising each head's d numbers.

    (In this order gradients arrive as they lie in memory, and need not be copied first.)
    """
    x = rearrange(x, "b n (heads d) -> b n heads d", heads=heads)
    return rearrange(x if norm is None else norm(x), "b n heads d -> b heads n d")
