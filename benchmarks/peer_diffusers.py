"""The peer: diffusers' UNet2DConditionModel, trained and sampled with diffusers' own parts.

Network, noise schedule, training target, average of the weights and sampler come from diffusers,
the optimizer from torch, as in diffusers' training examples. Data, text embeddings, precision and
the judge are those of our side. The recipes are in ``peer_recipes.py``.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor, nn

from benchmarks.peer_recipes import Recipe
from minimagen.device import autocast, to_device
from minimagen.diffusion.loss import training_times
from minimagen.diffusion.prediction import to_v
from minimagen.diffusion.schedule import Level
from minimagen.draws import Draws, SeededNoise
from minimagen.images import Batch, resize, resize_clamped, to_model_space
from minimagen.text.encoding import TextEncoding

NOISE_LEVELS = 1000
GROUPS = WIDTH_STEP = 8  # of GroupNorm; narrow, so that our number of parameters can be matched


def build_unet(side: int, low_res: bool, text_width: int, width: int, recipe: Recipe) -> Any:
    """Return a U-Net for images of ``side`` px whose first level has ``width`` channels.

    There are at most four levels, down to 4 px. A super-resolution network has two more inputs, as
    diffusers' IF: the enlarged low-resolution image and its noise level (``class_embed_type``).
    """
    sides = [side >> i for i in range(len(recipe.mults)) if side >> i >= 4]
    attends = [s <= recipe.attention_side for s in sides]
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=6 if low_res else 3,
        out_channels=3,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=tuple(width * m for m in recipe.mults[: len(sides)]),
        layers_per_block=recipe.blocks,
        norm_num_groups=GROUPS,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        class_embed_type="timestep" if low_res else None,
    )


@lru_cache
def matching_width(
    side: int, low_res: bool, text_width: int, parameters: int, recipe: Recipe
) -> int:
    """Return the width whose number of parameters is nearest to ``parameters``."""

    def count(width: int) -> int:
        with torch.device("meta"):
            unet = build_unet(side, low_res, text_width, width, recipe)
        return sum(p.numel() for p in unet.parameters())

    # the number is a w^2 + b w up to a few biases: two networks determine a and b
    one, two = WIDTH_STEP, 8 * WIDTH_STEP
    a = (count(two) / two - count(one) / one) / (two - one)
    b = count(one) / one - a * one
    root = (math.sqrt(b * b + 4 * a * parameters) - b) / (2 * a)
    below = max(WIDTH_STEP, int(root) // WIDTH_STEP * WIDTH_STEP)
    return min((below, below + WIDTH_STEP), key=lambda w: abs(count(w) - parameters))


class PeerStage(nn.Module):
    """One stage of the peer: base or super-resolution.

    Args:
        side: Side of its images, px.
        low_res_side: Side of the images of the stage before; None for the first stage.
        text_width: Channels of the text embeddings.
        width: Channels of the first level.
        recipe: Everything else.
        aug_level_max: In training the low-resolution image is noised up to this time of our
            cosine schedule, as on our side.
    """

    def __init__(
        self,
        side: int,
        low_res_side: int | None,
        text_width: int,
        width: int,
        recipe: Recipe,
        aug_level_max: float = 0.0,
    ) -> None:
        super().__init__()
        self.side, self.low_res_side, self.recipe = side, low_res_side, recipe
        self.aug_level_max = aug_level_max
        self.unet = build_unet(side, low_res_side is not None, text_width, width, recipe)
        if recipe.attention == "plain":
            self.unet.set_attn_processor(AttnProcessor())
        if recipe.channels_last:
            self.unet.to(memory_format=torch.channels_last)
        self.scheduler: Any = DDPMScheduler(
            NOISE_LEVELS, beta_schedule=recipe.betas, prediction_type=recipe.prediction
        )

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.unet.parameters()).device

    def loss(self, batch: Batch, draws: Draws | None = None) -> Tensor:
        """Return the training loss of every example [b].

        With ``draws``, which our side's validation uses too, it is the plain error in v without
        dropped captions, by which both sides are compared.
        """
        images = to_model_space(batch.images)
        x_0 = resize_clamped(images, (self.side, self.side))
        fixed = draws or Draws(int(torch.randint(2**62, ())), 0, 0, len(batch))
        shift = self.recipe.time_shift if draws is None else 1.0
        times = training_times(fixed.stratified("time"), shift)
        times = to_device((times * NOISE_LEVELS).long(), self.device)
        noise = torch.randn_like(x_0) if draws is None else draws.normal("noise", x_0.shape[1:])
        noise = to_device(noise, self.device)
        x_t = self.scheduler.add_noise(x_0, noise, times)
        level = self._level(times)
        text = TextEncoding(batch.text_embeds, batch.text_mask)
        if draws is None:
            keep = fixed.uniform("drop") >= self.recipe.caption_drop
            kept = to_device(keep, self.device)[:, None, None]
            text = TextEncoding(text.embeds * kept, text.mask)
        output = self._predict(x_t, times, text, *self._augmented(batch, fixed))
        if draws is not None:
            names = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
            error = to_v(names[self.recipe.prediction], output, x_t, level)  # type: ignore[arg-type]
            error = error - self.scheduler.get_velocity(x_0, noise, times)
            return error.square().flatten(1).mean(1)
        goal = {"epsilon": noise, "sample": x_0}.get(self.recipe.prediction)
        if goal is None:
            goal = self.scheduler.get_velocity(x_0, noise, times)
        return (output - goal).square().flatten(1).mean(1) * self._weight(times)

    def _weight(self, times: Tensor) -> Tensor:
        """Return diffusers' min-SNR weights (examples/text_to_image/train_text_to_image.py)."""
        snr = compute_snr(self.scheduler, times)
        if self.recipe.min_snr_gamma is None:
            return torch.ones_like(snr)
        capped = snr.clamp(max=self.recipe.min_snr_gamma)
        if self.recipe.prediction == "sample":
            return capped.clamp(min=1.0)  # 0 would teach it nothing at pure noise
        return capped / (snr + 1 if self.recipe.prediction == "v_prediction" else snr)

    def _level(self, times: Tensor) -> Level:
        kept = self.scheduler.alphas_cumprod.to(self.device)[times].reshape(-1, 1, 1, 1)
        return Level(kept.sqrt(), (1 - kept).sqrt(), torch.log(kept / (1 - kept)))

    def _augmented(self, batch: Batch, draws: Draws) -> tuple[Tensor | None, Tensor | None]:
        """Return low-resolution images noised as on our side, enlarged, and their times."""
        if self.low_res_side is None:
            return None, None
        given = batch.images if batch.low_res is None else batch.low_res
        low_res = resize_clamped(to_model_space(given), (self.low_res_side,) * 2)
        level = (draws.uniform("aug_level") * self.aug_level_max).float()
        level = to_device(level, self.device)
        angle = level.reshape(-1, 1, 1, 1) * (math.pi / 2)
        noise = to_device(draws.normal("aug_noise", low_res.shape[1:]), self.device)
        low_res = torch.cos(angle) * low_res + torch.sin(angle) * noise
        return resize(low_res, (self.side, self.side)), level * NOISE_LEVELS

    def _predict(
        self,
        x_t: Tensor,
        times: Tensor,
        text: TextEncoding,
        low_res: Tensor | None,
        aug_times: Tensor | None,
    ) -> Tensor:
        inputs = x_t if low_res is None else torch.cat([x_t, low_res], dim=1)
        if self.recipe.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self.unet(
            inputs,
            times,
            text.embeds,
            class_labels=aug_times,
            encoder_attention_mask=text.mask,
            return_dict=False,
        )[0].float()

    @torch.inference_mode()
    def sample(
        self, text: TextEncoding, seeds: Sequence[int], low_res: Tensor | None = None
    ) -> Tensor:
        """Return one image per caption, [b 3 side side] in [-1, 1].

        Guidance acts in the first stage only, as on our side, both halves in one batch.
        """
        scheduler = self._sampler()
        scheduler.set_timesteps(self.recipe.sampling_steps)
        x = SeededNoise(seeds, 0 if low_res is None else 1)("start", (3, self.side, self.side))
        x = x.to(self.device) * scheduler.init_noise_sigma
        aug_times = None if low_res is None else torch.zeros(len(seeds), device=self.device)
        enlarged = None if low_res is None else resize(low_res, (self.side, self.side))
        none = TextEncoding(torch.zeros_like(text.embeds), text.mask)
        both = TextEncoding(torch.cat([text.embeds, none.embeds]), text.mask.repeat(2, 1))
        generator = torch.Generator().manual_seed(seeds[0])
        for t in scheduler.timesteps:
            if low_res is None:
                halves = self._predict(x.repeat(2, 1, 1, 1), t, both, None, None).chunk(2)
                output = torch.lerp(halves[1], halves[0], self.recipe.guidance_scale)
            else:
                output = self._predict(x, t, text, enlarged, aug_times)
            extra = {"generator": generator} if self.recipe.sampler == "ddpm" else {}
            x = scheduler.step(output, t, x, return_dict=False, **extra)[0]
        return x.clamp(-1.0, 1.0)

    def _sampler(self) -> Any:
        if self.recipe.sampler == "ddpm":
            return DDPMScheduler.from_config(self.scheduler.config)
        return DPMSolverMultistepScheduler(
            NOISE_LEVELS,
            beta_schedule=self.recipe.betas,
            prediction_type=self.recipe.prediction,
            thresholding=True,  # pixels: estimates are clipped to [-1, 1] (sample_max_value 1)
        )


class PeerTrainer:
    """Steps of one stage: AdamW (fused), clipping, warm-up, decay, diffusers' EMA."""

    def __init__(self, stage: PeerStage, seed: int = 0) -> None:
        self.stage, self.recipe, self.step = stage, stage.recipe, 0
        torch.manual_seed(seed)
        self.optimizer = torch.optim.AdamW(
            stage.unet.parameters(),
            lr=self.recipe.learning_rate,
            betas=self.recipe.adam_betas,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        self.ema = None
        if self.recipe.ema_decay is not None:
            self.ema = EMAModel(stage.unet.parameters(), self.recipe.ema_decay, foreach=True)
            self.ema.to(stage.device)

    def train_step(self, batch: Batch, progress: float) -> Tensor:
        """Make one step at ``progress`` in [0, 1] of the budget and return the mean loss."""
        warmed = min(1.0, (self.step + 1) / max(1, self.recipe.warmup_steps))
        decay = 1 - progress
        if self.recipe.decay == "cosine":
            decay = (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * warmed * decay
        self.stage.train()
        with autocast(self.stage.device, self.recipe.precision):
            loss = self.stage.loss(batch.to(self.stage.device)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.stage.unet.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.stage.unet.parameters())
        self.step += 1
        return loss.detach()

    def finish(self) -> None:
        """Copy the averaged weights, if there are any, into the stage."""
        if self.ema is not None:
            self.ema.copy_to(self.stage.unet.parameters())
        self.stage.eval()

    @torch.inference_mode()
    def validate(self, batches: Iterable[Batch], seed: int, index: int) -> float:
        """Return the mean v-loss at the noises and times that our trainer validates with."""
        total, count = 0.0, 0
        for number, batch in enumerate(batches):
            draws = Draws(seed, index, -1 - number, len(batch))
            with autocast(self.stage.device, self.recipe.precision):
                total += float(self.stage.loss(batch.to(self.stage.device), draws).sum())
            count += len(batch)
        return total / count
