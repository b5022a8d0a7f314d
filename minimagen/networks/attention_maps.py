"""Where the pixels of a feature map attend in their caption, observed while a network runs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from einops import rearrange
from torch import Tensor, nn

from minimagen.device import exactly
from minimagen.networks.attention import Attention
from minimagen.networks.embeddings import TextContext, split_heads


@contextmanager
def observed_attention(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that gets one map for each call of each attention layer that reads text.

    A map is float32 [b n h w]: of the attention that a pixel pays to its caption, the share of each
    token, the mean over heads. It sums to 1 over the n tokens and is 0 for padding. The network's
    outputs are the same to the bit, and outside of the context nothing is computed.

    Args:
        network: A stage, a U-Net, or any other module with ``Attention`` layers.
    """
    maps: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: maps.append(shares(layer, *inputs)))
        for layer in network.modules()
        if isinstance(layer, Attention) and layer.text_to_kv is not None
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def shares(layer: Attention, x: Tensor, context: TextContext) -> Tensor:
    """Return the map of one layer, [b n h w]; see ``observed_attention``.

    The layer's softmax runs over pixels and tokens. Divided by what falls on the tokens, it is the
    softmax over the tokens alone.
    """
    height, width = x.shape[-2:]
    pixels = rearrange(layer.norm(x), "b c h w -> b (h w) c")
    queries = split_heads(layer.to_q(pixels), layer.heads, layer.q_norm).float()
    keys = context.keys_values[layer.text_index][0].float()
    with exactly(x.device):
        logits = queries @ keys.mT / math.sqrt(keys.shape[-1])
    mask = rearrange(context.mask, "b n -> b 1 1 n")
    weights = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1).mean(dim=1)
    return rearrange(weights, "b (h w) n -> b n h w", h=height)
