"""The towers of a CLIP: images and token sequences -> vectors of one space.

Letters of shapes: b batch, n tokens or patches, d width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimagen.config import Size
from minimagen.config.clip import ImageTowerConfig
from minimagen.networks.blocks import group_norm
from minimagen.networks.dot_product import attend


class Layer(nn.Module):
    """A pre-LayerNorm transformer layer: attention, then a perceptron of four times the width."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map [b n d] to [b n d]; ``mask`` is bool [b n], True = attended to."""
        queries, keys, values = rearrange(
            self.to_qkv(self.norm_attention(x)), "b n (three h d) -> three b h n d",
            three=3, h=self.heads,
        )  # fmt: skip
        attended_to = None if mask is None else rearrange(mask, "b n -> b 1 1 n")
        attended = attend(queries, keys, values, attended_to)
        x = x + self.to_out(rearrange(attended, "b h n d -> b n (h d)"))
        return x + self.mlp(self.norm_mlp(x))


class AttentionPool(nn.Module):
    """A learned query attends to a sequence: [b n d] -> [b d]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.norm = nn.LayerNorm(dim)
        self.to_kv, self.to_out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``x`` where ``mask``, bool [b n], is True."""
        keys, values = rearrange(
            self.to_kv(self.norm(x)), "b n (two h d) -> two b h n d", two=2, h=self.heads
        )
        query = rearrange(self.query, "(h d) -> h 1 d", h=self.heads).expand(len(x), -1, -1, -1)
        attended_to = None if mask is None else rearrange(mask, "b n -> b 1 1 n")
        pooled = attend(query.to(keys.dtype), keys, values, attended_to)
        return self.to_out(rearrange(pooled, "b h 1 d -> b (h d)"))


class TextTower(nn.Module):
    """Tokens -> their states, and one vector.

    Args:
        dim: Width of the states.
        depth: Transformer layers.
        heads: Of attention.
        embed_dim: Width of the vector.
        max_length: Longest sequence.
        vocabulary: Number of token ids; None where the tokens are vectors already.
        token_dim: Width of those vectors.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        embed_dim: int,
        max_length: int,
        vocabulary: int | None = None,
        token_dim: int = 0,
    ) -> None:
        super().__init__()
        self.tokens = (
            nn.Sequential(nn.LayerNorm(token_dim), nn.Linear(token_dim, dim))
            if vocabulary is None
            else nn.Embedding(vocabulary, dim)
        )
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.pool = AttentionPool(dim, heads)
        self.project = nn.Linear(dim, embed_dim, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors [b embed_dim] and the states [b n dim].

        Args:
            tokens: ids [b n], or vectors [b n token_dim].
            mask: bool [b n], True = real token.
        """
        x = self.tokens(tokens)
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        states = self.norm(x)
        return self.project(self.pool(states, mask)), states


class Level(nn.Module):
    """A convolution of stride 2, then a residual block of two convolutions."""

    def __init__(self, channels_in: int, channels: int, group: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
        self.norm_in, self.norm_out = group_norm(channels, group), group_norm(channels, group)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b channels_in h w] to [b channels h/2 w/2]."""
        x = self.down(x)
        h = self.conv_in(F.gelu(self.norm_in(x)))
        return x + self.conv_out(F.gelu(self.norm_out(h)))


class ConvolutionalTower(nn.Module):
    """Images [b 3 h w] -> vectors [b embed_dim]: levels of half the size, then their last pixels.

    The vector is a linear map of all pixels of the last level where these are few, so that it knows
    where things are.
    """

    def __init__(self, config: ImageTowerConfig, size: Size, embed_dim: int) -> None:
        super().__init__()
        dims = (3, *config.dims)
        pairs = list(zip(dims, dims[1:], strict=False))
        group = config.norm_group_channels
        self.stem = Level(*pairs[0], group)
        self.inner = nn.Sequential(*(Level(*pair, group) for pair in pairs[1:]))
        self.norm = group_norm(dims[-1], group)
        scale = 2 ** len(config.dims)
        pixels = (size[0] // scale) * (size[1] // scale)
        self.project = nn.Linear(dims[-1] * pixels, embed_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the vectors of ``images`` in model space."""
        h = F.gelu(self.norm(self.inner(self.stem(images))))
        return self.project(h.flatten(1))


class VisionTransformer(nn.Module):
    """Images [b 3 h w] -> vectors [b embed_dim]: patches, layers, a pooling head (2010.11929)."""

    def __init__(self, config: ImageTowerConfig, size: Size, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch = config.patch_size
        self.patches = nn.Linear(3 * patch * patch, config.dim)
        number = (size[0] // patch) * (size[1] // patch)
        self.positions = nn.Parameter(torch.randn(number, config.dim) * 0.02)
        self.inner = nn.ModuleList(Layer(config.dim, config.heads) for _ in range(config.depth))
        self.pool = AttentionPool(config.dim, config.heads)
        self.project = nn.Linear(config.dim, embed_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the vectors of ``images`` in model space."""
        patch = self.patch_size
        x = rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)
        x = self.patches(x) + self.positions
        for layer in self.inner:
            x = layer(x)
        return self.project(self.pool(x))


ImageTower = ConvolutionalTower | VisionTransformer


def image_tower(config: ImageTowerConfig, size: Size, embed_dim: int) -> ImageTower:
    """Return the tower of this kind for images of ``size``."""
    kind = ConvolutionalTower if config.kind == "cnn" else VisionTransformer
    return kind(config, size, embed_dim)
