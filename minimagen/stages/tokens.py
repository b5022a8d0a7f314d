"""A stage that predicts the tokens of an image one by one: DALL-E's way (arXiv 2102.12092).

A discrete autoencoder, trained before, stands between images and tokens; the text is a prefix, from
any text encoder (arXiv 2406.06525).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimagen.autoencoders.cache import LatentCache
from minimagen.autoencoders.discrete import DiscreteAutoencoder
from minimagen.config import Size, TokenConfig, TokenSamplingConfig
from minimagen.device import exactly, to_device, widest_float
from minimagen.draws import Draws, Noise
from minimagen.errors import UserError
from minimagen.images import Batch, in_float32, to_model_space
from minimagen.learner import ParameterGroups, weights_in
from minimagen.networks.transformer import GPT
from minimagen.stages.coded import CodedStage
from minimagen.stages.stage import Callback, Condition, Start

DIGIT = 256  # a code is kept as two numbers below this, which bfloat16 has exactly


class TokenStage(CodedStage[TokenSamplingConfig, DiscreteAutoencoder]):
    """Samples images token by token.

    Args:
        index: Its place in the cascade, from 0.
        config: Network and sampling.
        size: (height, width) of its images.
        text_embed_dim: Width of the text embeddings.
        autoencoder: Between images and tokens; frozen.
    """

    def __init__(
        self,
        index: int,
        config: TokenConfig,
        size: Size,
        text_embed_dim: int,
        autoencoder: DiscreteAutoencoder,
    ) -> None:
        super().__init__(index, f"gpt_{index}", autoencoder)
        self.config, self.size = config, size
        self.image_sizes = (size,)
        grid = autoencoder.grid(self.divisible(size, 1))
        levels = autoencoder.config.code_levels
        for name, kind in (("embedding", config.gpt.embedding), ("head", config.gpt.head)):
            if not levels and kind != "table":
                raise UserError(
                    f"stage {index}: gpt.{name} is {kind!r}, but codes of kind "
                    f"{autoencoder.config.kind} have no channels; give 'table'"
                )
        if autoencoder.config.color_codes and config.gpt.head == "channels":
            raise UserError(
                f"stage {index}: gpt.head is 'channels', but codes of colors (color_codes) have no "
                "channels; give 'both' or 'table'"
            )
        self.gpt = GPT(config.gpt, autoencoder.codes, grid, text_embed_dim, levels)

    def parameter_groups(self) -> ParameterGroups:
        """Return the matrices inside the blocks, and all else."""
        return ParameterGroups.of(self, weights_in(self.gpt.blocks))

    def shardable(self) -> Sequence[nn.Module]:
        """Return the blocks, which FSDP may gather one at a time."""
        return list(self.gpt.blocks)

    def prepared(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches with the tokens of the images, each image's computed once."""
        cache = LatentCache(self._digits, f"tokens-{self.autoencoder.fingerprint}", self.device)
        return (replace(batch, latents=cache(batch.images)) for batch in batches)

    def _digits(self, images: Tensor) -> Tensor:
        """Return the codes of images in two digits, float32 [b 2 h w]."""
        codes = self.autoencoder.tokenize(images)
        return torch.stack([codes // DIGIT, codes % DIGIT], dim=1).float()

    def _codes(self, batch: Batch) -> Tensor:
        """Return the codes of a batch's images, int64 [b m]."""
        digits = batch.latents
        if digits is None:
            digits = self._digits(to_model_space(batch.images))
        high, low = digits.long().unbind(1)
        return rearrange(DIGIT * high + low, "b h w -> b (h w)")

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the mean cross-entropy of the tokens of every example, float32 [b].

        In training some of the tokens that are read are random ones: when it samples, the network
        also reads what is not quite right.
        """
        codes = self._codes(batch)
        seen, shape = codes, codes.shape[1:]
        if self.training and self.config.token_drop_prob:
            share, random = (
                to_device(torch.special.ndtr(draws.normal(name, shape)), self.device)
                for name in ("replaced", "replacement")
            )
            other = (random * self.autoencoder.codes).long().clamp(max=self.autoencoder.codes - 1)
            seen = torch.where(share < self.config.token_drop_prob, other, codes)
        drop = draws.uniform("drop") < self.config.cond_drop_prob
        drop = to_device(drop, self.device)
        prefix = self.gpt.prefix(batch.text_embeds, batch.text_mask, drop)
        logits = rearrange(in_float32(self.gpt(prefix, seen)), "b m k -> b k m")
        return F.cross_entropy(logits, codes, reduction="none").mean(1)

    def settings(self, **changes: Any) -> TokenSamplingConfig:
        """Return the stage's sampling settings, with ``changes`` to fields of them."""
        return self.config.sampling.replace(**changes)

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        noise: Noise,
        sampling: TokenSamplingConfig,
        start: Start | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return one image per row of ``condition``: [b 3 h w] in [-1, 1]; see ``Stage.sample``.

        The noise of token i is called i. ``callback`` gets the codes so far.

        Raises:
            UserError: Other sizes are asked for, or a start.
        """
        if condition.size not in (None, self.size) or start is not None:
            height, width = self.size
            raise UserError(f"stage {self.index} samples tokens of {height} x {width} pixels only")
        if condition.given is not None:
            raise UserError(f"stage {self.index} samples tokens one by one: it edits no images")
        # In float32: bfloat16 rounds differently in another batch, and one token changes all later.
        with exactly(self.device):
            codes = self._sample_codes(condition, noise, sampling, callback)
        return self.preview(codes)

    @torch.inference_mode()
    def preview(self, estimate: Tensor) -> Tensor:
        """Return the images of the first codes, [b k]; the others are those of nothing."""
        grid = self.autoencoder.blank(self.gpt.grid).repeat(len(estimate), 1, 1)
        grid.flatten(1)[:, : estimate.shape[1]] = estimate
        return self.autoencoder.detokenize(grid).clamp(-1.0, 1.0)

    def _sample_codes(
        self,
        condition: Condition,
        noise: Noise,
        sampling: TokenSamplingConfig,
        callback: Callback | None,
    ) -> Tensor:
        scale = sampling.guidance_scale
        copies = 1 if scale == 1.0 else 2  # the second copy of the rows is without captions
        decoding, codes = self.gpt.begin(self.gpt.prefix(*condition.text(copies))), None
        found: list[Tensor] = []
        for i in range(self.gpt.length):
            logits = decoding.next_logits(codes).to(widest_float(self.device))
            if copies == 2:
                conditional, other = logits.chunk(2)
                logits = other + scale * (conditional - other)
            uniform = torch.special.ndtr(noise(i, (1,)).double()).to(logits)
            found.append(choose(logits, uniform, sampling))
            codes = found[-1].repeat(copies)
            if callback is not None:
                callback(i, self.gpt.length, torch.stack(found, dim=1))
        return torch.stack(found, dim=1)


def choose(logits: Tensor, uniform: Tensor, sampling: TokenSamplingConfig) -> Tensor:
    """Return a token for each row: temperature, then top-k, then top-p, then a draw.

    Args:
        logits: [b k], float64 where the device has it.
        uniform: A number in [0, 1] for each row, [b 1].
        sampling: The three settings.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(1)
    order = logits.argsort(dim=1, descending=True, stable=True)
    p = (logits.gather(1, order) / sampling.temperature).softmax(1)
    if sampling.top_k:
        p[:, sampling.top_k :] = 0.0
    before = p.cumsum(1) / p.sum(1, keepdim=True) - p / p.sum(1, keepdim=True)
    p = torch.where(before < sampling.top_p - 1e-9, p, 0.0)  # sums are not exact
    p[:, 0] = p[:, 0].clamp(min=torch.finfo(p.dtype).tiny)
    total = p.cumsum(1)
    place = torch.searchsorted(total, uniform * total[:, -1:], right=True)
    last = (p > 0).sum(1, keepdim=True) - 1  # where the number is 1, up to rounding
    return order.gather(1, torch.minimum(place, last)).squeeze(1)
