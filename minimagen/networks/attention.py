"""Attention of a feature map to itself and to the text, in one call.

Imagen concatenates the text's keys and values to those of the self-attention (section D.3.1);
where a level has no self-attention the same module attends to the text alone.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from minimagen.networks.compilation import in_training
from minimagen.networks.dot_product import attend
from minimagen.networks.embeddings import KeysValues, TextContext, split_heads


class Attention(nn.Module):
    """Residual attention over the pixels of a feature map [b c h w].

    Args:
        dim: Channels of the feature map.
        heads: Number of heads.
        head_dim: Channels of a head.
        over_pixels: Whether pixels attend to pixels.
        cond_dim: Width of the text tokens that pixels attend to; None for no text.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, over_pixels: bool, cond_dim: int | None
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.compiled = False
        self.text_index = 0  # which of the context's keys and values are this layer's
        self.norm = nn.GroupNorm(1, dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False) if over_pixels else None
        self.text_to_kv = nn.Linear(cond_dim, 2 * inner, bias=False) if cond_dim else None
        # Query-key normalisation keeps the logits bounded, whatever the precision. (LayerNorm, as
        # in arXiv 2302.05442: one kernel on every device, where RMSNorm is five.)
        self.q_norm = nn.LayerNorm(head_dim, bias=False)
        self.k_norm = nn.LayerNorm(head_dim, bias=False)
        self.to_out = nn.Linear(inner, dim)
        nn.init.zeros_(self.to_out.weight)  # the residual branch starts as the identity
        nn.init.zeros_(self.to_out.bias)

    def text_keys_values(self, tokens: Tensor) -> KeysValues:
        """Return keys and values [b heads n head_dim] of text tokens [b n cond_dim]."""
        assert self.text_to_kv is not None
        return self._split_pair(*self.text_to_kv(tokens).chunk(2, dim=-1))

    def _split_pair(self, keys: Tensor, values: Tensor) -> KeysValues:
        return split_heads(keys, self.heads, self.k_norm), split_heads(values, self.heads)

    def forward(self, x: Tensor, context: TextContext) -> Tensor:
        """Attend; the shape of ``x`` stays."""
        text = (context.keys_values[self.text_index],) if self.text_to_kv else ()
        return in_training(Attention._attend, self.compiled)(self, x, context.mask, *text)

    def _attend(self, x: Tensor, mask: Tensor, *text: KeysValues) -> Tensor:
        """Attend to the pixels and to ``text``, keys and values with their ``mask``, if given."""
        height, width = x.shape[-2:]
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")
        queries = split_heads(self.to_q(tokens), self.heads, self.q_norm)
        pairs: list[KeysValues] = []
        masks: list[Tensor] = []
        if self.to_kv is not None:
            pairs.append(self._split_pair(*self.to_kv(tokens).chunk(2, dim=-1)))
            masks.append(mask.new_ones(len(x), height * width))
        if text:
            pairs += text
            masks.append(mask)
        keys = torch.cat([k for k, _ in pairs], dim=2)
        values = torch.cat([v for _, v in pairs], dim=2)
        attended_to = rearrange(torch.cat(masks, dim=1), "b n -> b 1 1 n") if text else None
        attended = attend(queries, keys, values, attended_to)
        update = self.to_out(rearrange(attended, "b heads n d -> b n (heads d)"))
        return x + rearrange(update, "b (h w) c -> b c h w", h=height)
