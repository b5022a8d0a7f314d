"""Scaled dot-product attention, in the precision whose kernels are fast.

PyTorch's backward of attention in bfloat16 takes three to five times as long on a CPU as that in
float32 (torch 2.13; ``python -m benchmarks.attention``).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attended_to: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, [b heads n d], in the values' precision.

    Args:
        queries: [b heads n d].
        keys: [b heads m d].
        values: [b heads m d].
        attended_to: bool, to broadcast to [b heads n m]; None for all.
        dropout: Share of the weights that is dropped.
    """
    if not (values.device.type == "cpu" and values.requires_grad and _in_bfloat16(values)):
        return F.scaled_dot_product_attention(queries, keys, values, attended_to, dropout)
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(
            queries.float(), keys.float(), values.float(), attended_to, dropout
        )
    return attended.to(values.dtype)


def _in_bfloat16(x: Tensor) -> bool:
    """Return whether attention of ``x`` would be computed so; autocast leaves float64 alone."""
    casts = x.dtype == torch.float32 and torch.is_autocast_enabled("cpu")
    return casts or x.dtype == torch.bfloat16
