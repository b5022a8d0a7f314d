"""The convolutional pieces of a U-Net. Feature maps are [b c h w]."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimagen.networks.compilation import in_training


def group_norm(channels: int, least: int) -> nn.GroupNorm:
    """Return a GroupNorm of at most 32 groups of at least ``least`` channels, if they divide."""
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // least))), channels)


class ResBlock(nn.Module):
    """norm, SiLU, conv; norm scaled and shifted by the embedding, SiLU, conv; plus the input.

    The residual block of ADM (arXiv 2105.05233) that Imagen uses; the groups of its norms have
    at least ``group`` channels.
    """

    def __init__(
        self, channels_in: int, channels: int, embed_dim: int, dropout: float, group: int
    ) -> None:
        super().__init__()
        self.compiled = False
        self.norm_in = group_norm(channels_in, group)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.embed = nn.Linear(embed_dim, 2 * channels)
        self.norm_out = group_norm(channels, group)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)
        nn.init.zeros_(self.conv_out.weight)  # the residual branch starts as the identity
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map [b channels_in h w] to [b channels h w]; ``embedding`` [b embed_dim] after SiLU."""
        return in_training(ResBlock._compute, self.compiled)(self, x, embedding)

    def _compute(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = rearrange(self.embed(embedding), "b c -> b c 1 1").chunk(2, dim=1)
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = torch.addcmul(shift, self.norm_out(h), scale + 1.0)
        return self.skip(x) + self.conv_out(self.dropout(F.silu(h)))


class Downsample(nn.Module):
    """Halve both sides: 3 x 3 convolution of stride 2."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b channels_in h w] to [b channels h/2 w/2]."""
        return self.conv(x)


class Upsample(nn.Module):
    """Double both sides: nearest neighbor, then a 3 x 3 convolution."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b channels_in h w] to [b channels 2h 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
