"""The U-Net of every stage: Imagen's base network and its Efficient U-Net from one config.

    image, noise level, captions (, low-resolution image, its level) -> output like image

The network knows nothing of noise processes: it sees two log-SNRs as numbers, and its
stage gives its output a meaning (eps, x_0, v).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minimagen.config import UNetConfig
from minimagen.networks.attention import Attention
from minimagen.networks.blocks import Downsample, ResBlock, Upsample, group_norm
from minimagen.networks.compilation import pad_text
from minimagen.networks.embeddings import (
    AttentionPooling,
    NoiseLevelEmbedding,
    TextContext,
    TextTokens,
)
from minimagen.networks.network import DenoisingNetwork


class Block(nn.Module):
    """A residual block and, where the level attends, attention after it."""

    def __init__(self, res: ResBlock, attention: Attention | None) -> None:
        super().__init__()
        self.res = res
        self.attention = attention
        self.recompute = False

    def forward(self, h: Tensor, embedding: Tensor, context: TextContext) -> Tensor:
        """Map [b c h w] to [b c' h w]."""
        h = self._run(self.res, h, embedding)
        return h if self.attention is None else self._run(self.attention, h, context)

    def _run(self, module: nn.Module, *inputs: Any) -> Tensor:
        """Call ``module``; if asked to, keep only its inputs for the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


class Level(nn.Module):
    """One resolution on the way down or up.

    The base U-Net keeps a skip of every block and resamples after its blocks. The Efficient U-Net
    keeps one skip per level, scaled by 1/sqrt 2, and down-samples before its blocks.
    """

    def __init__(self, blocks: list[Block], resample: nn.Module, efficient: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample
        self.efficient = efficient

    def down(
        self, h: Tensor, skips: list[Tensor], embedding: Tensor, context: TextContext
    ) -> Tensor:
        """Run on the way down and push the skips."""
        if self.efficient:
            h = self.resample(h)
        for k, block in enumerate(self.blocks, start=1):
            h = block(h, embedding, context)
            if not self.efficient:
                skips.append(h)
            elif k == len(self.blocks):
                skips.append(h * 2**-0.5)
        return h if self.efficient else self.resample(h)

    def up(self, h: Tensor, skips: list[Tensor], embedding: Tensor, context: TextContext) -> Tensor:
        """Run on the way up and pop the skips."""
        for k, block in enumerate(self.blocks):
            if k == 0 or not self.efficient:
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, embedding, context)
        return self.resample(h)


class UNet(DenoisingNetwork):
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
        self.compiled = False
        dims = [config.dim * mult for mult in config.dim_mults]
        embed_dim, cond_dim = 4 * config.dim, config.cond_dim or config.dim
        self.time = NoiseLevelEmbedding(embed_dim)
        self.aug = NoiseLevelEmbedding(embed_dim) if lowres_cond else None
        self.text = TextTokens(text_embed_dim, cond_dim)
        self.text_pool = AttentionPooling(cond_dim, embed_dim)
        pixels = config.channels * config.patch_size**2
        self.conv_in = nn.Conv2d(pixels * (2 if lowres_cond else 1), config.dim, 3, padding=1)
        self.downs = nn.ModuleList(self._down(i, dims) for i in range(len(dims)))
        width = dims[-1]
        attends = config.attend_at_middle
        self.mid_in = self._block(width, width, attends, attends)
        self.mid_out = self._block(width, width, False, False)
        self.ups = nn.ModuleList(self._up(i, dims) for i in reversed(range(len(dims))))
        # The stem's features join the last ones: they carry x_t past the low resolutions.
        last = config.dim if config.memory_efficient else dims[0]
        self.norm_out = group_norm(last + config.dim, config.norm_group_channels)
        self.conv_out = nn.Conv2d(last + config.dim, pixels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # the first estimate is 0, the mean of the data
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]  # it has one
        self._text_readers = [
            m for m in self.modules() if isinstance(m, Attention) and m.text_to_kv
        ]
        for i, reader in enumerate(self._text_readers):
            reader.text_index = i

    def _block(self, inputs: int, outputs: int, over_pixels: bool, over_text: bool) -> Block:
        config = self.config
        group = config.norm_group_channels
        res = ResBlock(inputs, outputs, 4 * config.dim, config.dropout, group)
        if not over_pixels and not over_text:
            return Block(res, None)
        cond_dim = (config.cond_dim or config.dim) if over_text else None
        heads, head_dim = config.attn_heads, config.attn_head_dim
        return Block(res, Attention(outputs, heads, head_dim, over_pixels, cond_dim))

    def _blocks(self, i: int, inputs: list[int], dim: int) -> list[Block]:
        over_pixels = self.config.per_level("layer_attns")[i]
        over_text = self.config.per_level("layer_cross_attns")[i]
        return [self._block(channels, dim, over_pixels, over_text) for channels in inputs]

    def _down(self, i: int, dims: list[int]) -> Level:
        config, dim = self.config, dims[i]
        before = dims[i - 1] if i else config.dim
        later = [dim] * (config.per_level("num_resnet_blocks")[i] - 1)
        if config.memory_efficient:
            return Level(self._blocks(i, [dim, *later], dim), Downsample(before, dim), True)
        last = i == len(dims) - 1
        resample = nn.Identity() if last else Downsample(dim, dim)
        return Level(self._blocks(i, [before, *later], dim), resample, False)

    def _up(self, i: int, dims: list[int]) -> Level:
        config, dim = self.config, dims[i]
        later = config.per_level("num_resnet_blocks")[i] - 1
        if config.memory_efficient:
            inputs = [2 * dim] + [dim] * later
            return Level(
                self._blocks(i, inputs, dim), Upsample(dim, dims[i - 1] if i else config.dim), True
            )
        inputs = [2 * dim] * (1 + later)
        resample = Upsample(dim, dims[i - 1]) if i else nn.Identity()
        return Level(self._blocks(i, inputs, dim), resample, False)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Return the matrices and kernels that map features to features, which Muon is for.

        Not among them: stem and head, which face pixels; text and noise-level embeddings; and the
        scales and shifts that these give to the residual blocks.
        """
        blocks = [*self.downs, self.mid_in, self.mid_out, *self.ups]
        modules = [module for block in blocks for module in block.modules()]
        modulations = {module.embed for module in modules if isinstance(module, ResBlock)}
        weights = [
            module.weight
            for module in modules
            if isinstance(module, nn.Conv2d | nn.Linear) and module not in modulations
        ]
        return [weight for weight in weights if isinstance(weight, nn.Parameter)]

    def recompute_activations(self, on: bool = True) -> None:
        """Let blocks compute their activations again in the backward pass instead of keeping them.

        That is activation checkpointing: about a third more time, far less memory, the same result.
        """
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = on

    def compile_blocks(self, on: bool = True) -> None:
        """Let residual blocks and attention train with compiled code (``torch.compile``), or not.

        While it is on, captions are padded to few lengths. Weights and their names stay.
        """
        self.compiled = on
        for module in self.modules():
            if isinstance(module, ResBlock | Attention):
                module.compiled = on

    def shardable(self) -> list[nn.Module]:
        """Return the parts that hold most weights and are used only through their forward pass."""
        return [m for m in self.modules() if isinstance(m, ResBlock | Downsample | Upsample)]

    def encode_text(self, embeds: Tensor, mask: Tensor, drop: Tensor) -> TextContext:
        """Return all that the network uses of the captions; once per sampling run is enough.

        Args:
            embeds: [b n text_embed_dim].
            mask: bool [b n], True = real token.
            drop: bool [b], True = as if there were no caption.
        """
        if self.compiled and torch.is_grad_enabled():
            embeds, mask = pad_text(embeds, mask)
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
            x: Noised images [b c h w]; h and w multiples of ``config.divisor``.
            log_snr: Their noise levels [b].
            context: The captions, from ``encode_text``.
            low_res: Images of the stage before, noised at ``aug_log_snr``, enlarged to [b c h w].
            aug_log_snr: Noise levels of ``low_res`` [b].
        """
        embedding = self.time(log_snr) + context.pooled
        if self.aug is not None:
            assert low_res is not None and aug_log_snr is not None
            x = torch.cat([x, low_res], dim=1)
            embedding = embedding + self.aug(aug_log_snr)
        embedding = F.silu(embedding)
        h = first = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        skips: list[Tensor] = []
        for level in _levels(self.downs):
            h = level.down(h, skips, embedding, context)
        h = self.mid_in(h, embedding, context)
        h = self.mid_out(h, embedding, context)
        for level in _levels(self.ups):
            h = level.up(h, skips, embedding, context)
        h = self.conv_out(F.silu(self.norm_out(torch.cat([h, first], dim=1))))
        return F.pixel_shuffle(h, self.config.patch_size)


def _levels(modules: nn.ModuleList) -> list[Level]:
    return [module for module in modules if isinstance(module, Level)]


def count_parameters(module: nn.Module) -> int:
    """Return the number of trained numbers in ``module``."""
    return sum(math.prod(p.shape) for p in module.parameters())
