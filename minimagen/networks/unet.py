"""The U-Net of every stage: Imagen's base network and its Efficient U-Net from one config.

    picture, noise level, captions (, low-resolution picture, its level) -> output like picture

The network knows nothing of noise processes: it sees two log-SNRs as numbers, and what its output
means (eps, x_0, v) is its stage's affair.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimagen.batch import resize
from minimagen.config import UNetConfig
from minimagen.networks.attention import Attention
from minimagen.networks.blocks import Downsample, ResBlock, Upsample, group_norm
from minimagen.networks.embeddings import (
    AttentionPooling,
    NoiseLevelEmbedding,
    TextContext,
    TextTokens,
)


class Level(nn.Module):
    """One resolution on the way down or up: residual blocks, each followed by attention."""

    def __init__(self, blocks: list[ResBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample: nn.Module = nn.Identity()


class UNet(nn.Module):
    """A conditional U-Net.

    Args:
        config: Its shape; see ``UNetConfig``.
        text_embed_dim: Width of the text encoder's embeddings.
        lowres_cond: Whether it is a super-resolution network.
    """

    def __init__(self, config: UNetConfig, text_embed_dim: int, lowres_cond: bool) -> None:
        super().__init__()
        self.config = config
        self.lowres_cond = lowres_cond
        dims = [config.dim * mult for mult in config.dim_mults]
        embed_dim = 4 * config.dim
        cond_dim = config.cond_dim or config.dim
        self.time = NoiseLevelEmbedding(embed_dim)
        self.aug = NoiseLevelEmbedding(embed_dim) if lowres_cond else None
        self.text = TextTokens(text_embed_dim, cond_dim)
        self.text_pool = AttentionPooling(cond_dim, embed_dim)
        pixels = config.channels * config.patch_size**2
        self.conv_in = nn.Conv2d(pixels * (2 if lowres_cond else 1), config.dim, 3, padding=1)
        self.skip_scale = 2**-0.5 if config.memory_efficient else 1.0
        self._build_levels(dims, embed_dim, cond_dim)
        self.norm_out = group_norm(2 * config.dim)
        self.conv_out = nn.Conv2d(2 * config.dim, pixels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # the first estimate is 0, the mean of the data
        nn.init.zeros_(self.conv_out.bias)

    def _build_levels(self, dims: list[int], embed_dim: int, cond_dim: int) -> None:
        config = self.config
        first_down = config.memory_efficient  # Efficient U-Net: down-sample before the blocks
        numbers = config.per_level("num_resnet_blocks")
        over_pixels = config.per_level("layer_attns")
        over_text = config.per_level("layer_cross_attns")

        def level(i: int, inputs: list[int]) -> Level:
            blocks = [ResBlock(c, dims[i], embed_dim, config.dropout) for c in inputs]
            attends = over_pixels[i] or over_text[i]
            attentions = [
                self._attention(dims[i], over_pixels[i], cond_dim if over_text[i] else None)
                for _ in (blocks if attends else ())
            ]
            return Level(blocks, attentions)

        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        width = config.dim
        for i, dim in enumerate(dims):
            last = i == len(dims) - 1
            down = level(i, [dim if first_down else width] + [dim] * (numbers[i] - 1))
            if first_down:
                down.resample = Downsample(width, dim)
            elif not last:
                down.resample = Downsample(dim, dim)
            self.downs.append(down)
            width = dim
        self.mid_in = ResBlock(width, width, embed_dim, config.dropout)
        self.mid_attention = (
            self._attention(width, True, cond_dim) if config.attend_at_middle else None
        )
        self.mid_out = ResBlock(width, width, embed_dim, config.dropout)
        for i, dim in reversed(list(enumerate(dims))):
            skips = [dim] + [0 if first_down else dim] * (numbers[i] - 1)
            up = level(i, [(width if k == 0 else dim) + skip for k, skip in enumerate(skips)])
            width = (dims[i - 1] if i else config.dim) if (first_down or i) else dim
            if first_down or i:
                up.resample = Upsample(dim, width)
            self.ups.append(up)
        self._text_readers = [
            m for m in self.modules() if isinstance(m, Attention) and m.reads_text
        ]
        self.to_final = nn.Identity() if width == config.dim else nn.Conv2d(width, config.dim, 1)

    def _attention(self, dim: int, over_pixels: bool, cond_dim: int | None) -> Attention:
        config = self.config
        return Attention(dim, config.attn_heads, config.attn_head_dim, over_pixels, cond_dim)

    def encode_text(self, embeds: Tensor, mask: Tensor, drop: Tensor) -> TextContext:
        """Return all that the network uses of the captions; once per sampling run is enough.

        Args:
            embeds: [b n text_embed_dim].
            mask: bool [b n], True = real token.
            drop: bool [b], True = as if there were no caption.
        """
        tokens, mask = self.text(embeds, mask, drop)
        pairs = tuple(layer.text_keys_values(tokens) for layer in self._text_readers)
        return TextContext(self.text_pool(tokens, mask), pairs, mask)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        context: TextContext,
        low_res: Tensor | None = None,
        aug_log_snr: Tensor | None = None,
    ) -> Tensor:
        """Return the network's output, like ``x``.

        Args:
            x: Noised pictures [b c h w]; h and w multiples of ``config.divisor``.
            log_snr: Their noise levels [b].
            context: The captions, from ``encode_text``.
            low_res: Pictures of the stage before [b c h' w'], noised at ``aug_log_snr``.
            aug_log_snr: Noise levels of ``low_res`` [b].
        """
        embedding = self.time(log_snr) + context.pooled
        if self.aug is not None:
            assert low_res is not None and aug_log_snr is not None
            x = torch.cat([x, resize(low_res, (x.shape[-2], x.shape[-1]))], dim=1)
            embedding = embedding + self.aug(aug_log_snr)
        embedding = F.silu(embedding)
        text = dict(zip(self._text_readers, context.keys_values, strict=True))

        def run(level: Level, k: int, h: Tensor) -> Tensor:
            h = level.blocks[k](h, embedding)
            if len(level.attentions):
                layer = level.attentions[k]
                h = layer(h, text.get(layer), context.mask)
            return h

        h = first = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        skips: list[Tensor] = []
        for level in self.downs:
            if self.config.memory_efficient:
                h = level.resample(h)
            for k in range(len(level.blocks)):
                h = run(level, k, h)
                if not self.config.memory_efficient:
                    skips.append(h)
            if self.config.memory_efficient:
                skips.append(h)
            else:
                h = level.resample(h)
        h = self.mid_in(h, embedding)
        if self.mid_attention is not None:
            h = self.mid_attention(h, text[self.mid_attention], context.mask)
        h = self.mid_out(h, embedding)
        for level in self.ups:
            for k in range(len(level.blocks)):
                if k == 0 or not self.config.memory_efficient:
                    h = torch.cat([h, skips.pop() * self.skip_scale], dim=1)
                h = run(level, k, h)
            h = level.resample(h)
        h = torch.cat([self.to_final(h), first * self.skip_scale], dim=1)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h, self.config.patch_size)


def count_parameters(module: nn.Module) -> int:
    """Return the number of trained numbers in ``module``."""
    return sum(math.prod(p.shape) for p in module.parameters())
