"""Encoders and decoders of images, with the names of diffusers' AutoencoderKL and AutoencoderTiny.

So the weights of either load into the other without any change of names. Letters of shapes: b
batch, c channels, h and w sides.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.networks.dot_product import attend

EPS = 1e-6  # of the group norms, as in Stable Diffusion's


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, twice; plus the input."""

    def __init__(self, channels_in: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=EPS)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels, eps=EPS)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        same = channels_in == channels
        self.conv_shortcut = None if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b channels_in h w] to [b channels h w]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Residual attention of all pixels to all, one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Attend; the shape of ``x`` stays."""
        tokens = rearrange(self.group_norm(x), "b c h w -> b 1 (h w) c")
        attended = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        update = rearrange(self.to_out[0](attended), "b 1 (h w) c -> b c h w", h=x.shape[2])
        return x + update


class Downsample(nn.Module):
    """Halve both sides: a 3 x 3 convolution of stride 2, padded at the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b c h w] to [b c h/2 w/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides: nearest neighbor, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b c h w] to [b c 2h 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Blocks(nn.Module):
    """Residual blocks, and what a subclass puts behind them."""

    def __init__(self, channels_in: int, channels: int, layers: int, groups: int) -> None:
        super().__init__()
        inputs = [channels_in] + [channels] * (layers - 1)
        self.resnets = nn.ModuleList(ResnetBlock(n, channels, groups) for n in inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b channels_in h w] to [b channels h' w']."""
        for part in self.children():
            for module in part.children():
                x = module(x)
        return x


class DownBlock(Blocks):
    """Residual blocks, then half the size, except for the last one."""

    def __init__(self, channels_in: int, channels: int, layers: int, groups: int, last: bool):
        super().__init__(channels_in, channels, layers, groups)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(channels)])


class UpBlock(Blocks):
    """Residual blocks, then twice the size, except for the last one."""

    def __init__(self, channels_in: int, channels: int, layers: int, groups: int, last: bool):
        super().__init__(channels_in, channels, layers, groups)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(channels)])


class MidBlock(nn.Module):
    """A residual block, attention or none, and another residual block."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of ``x``."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Encoder(nn.Module):
    """Images [b 3 h w] -> [b out h/f w/f]."""

    def __init__(self, config: AutoencoderConfig, out: int) -> None:
        super().__init__()
        dims, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, dims[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(a, b, config.layers_per_block, groups, i == len(dims) - 1)
            for i, (a, b) in enumerate(zip((dims[0], *dims), dims, strict=False))
        )
        self.mid_block = MidBlock(dims[-1], groups, config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, dims[-1], eps=EPS)
        self.conv_out = nn.Conv2d(dims[-1], out, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the bottleneck gets."""
        x = self.conv_in(images)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """[b channels h/f w/f] -> images [b 3 h w]."""

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        dims, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(channels, dims[0], 3, padding=1)
        self.mid_block = MidBlock(dims[0], groups, config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList(
            UpBlock(a, b, config.layers_per_block + 1, groups, i == len(dims) - 1)
            for i, (a, b) in enumerate(zip((dims[0], *dims), dims, strict=False))
        )
        self.conv_norm_out = nn.GroupNorm(groups, dims[-1], eps=EPS)
        self.conv_out = nn.Conv2d(dims[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Return images, about in [-1, 1]."""
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderNetwork(nn.Module, ABC):
    """An encoder of some kind, and a decoder."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return images [b 3 h w], about in [-1, 1]."""


class AutoencoderKL(AutoencoderNetwork):
    """Stable Diffusion's autoencoder (arXiv 2112.10752): a Gaussian for every latent."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        self.encoder, self.decoder = Encoder(config, 2 * channels), Decoder(config, channels)
        both, quant, post = 2 * channels, config.use_quant_conv, config.use_post_quant_conv
        self.quant_conv = nn.Conv2d(both, both, 1) if quant else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if post else None

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latents, [b c h/f w/f] each."""
        moments = self.encoder(images)
        moments = moments if self.quant_conv is None else self.quant_conv(moments)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)


class TinyBlock(nn.Module):
    """Three convolutions with ReLU; plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of ``x``."""
        return F.relu(self.conv(x) + x)


class Layers(nn.Module):
    """Modules one after the other, under the name that TAESD's weights have."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Pass through all of them."""
        return self.layers(x)


class AutoencoderTiny(AutoencoderNetwork):
    """TAESD (github.com/madebyollin/taesd): small, without randomness. Its pixels are [0, 1]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dims, blocks = config.block_out_channels, config.layers_per_block
        down: list[nn.Module] = []
        for i, dim in enumerate(dims):
            if i == 0:
                down += [nn.Conv2d(3, dim, 3, padding=1), TinyBlock(dim)]
                continue
            down += [nn.Conv2d(dims[i - 1], dim, 3, padding=1, stride=2, bias=False)]
            down += [TinyBlock(dim) for _ in range(blocks)]
        self.encoder = Layers([*down, nn.Conv2d(dims[-1], config.latent_channels, 3, padding=1)])
        up: list[nn.Module] = [nn.Conv2d(config.latent_channels, dims[-1], 3, padding=1), nn.ReLU()]
        for i in range(len(dims) - 1, 0, -1):
            up += [TinyBlock(dims[i]) for _ in range(blocks)]
            up += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(dims[i], dims[i - 1], 3, padding=1, bias=False),
            ]
        self.decoder = Layers([*up, TinyBlock(dims[0]), nn.Conv2d(dims[0], 3, 3, padding=1)])

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [b c h/f w/f] of images in model space."""
        return self.encoder((images + 1.0) / 2.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in model space."""
        return self.decoder(torch.tanh(latents / 3.0) * 3.0) * 2.0 - 1.0
