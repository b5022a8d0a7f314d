"""A diffusion stage: network + schedule + prediction + sampler. Base and super-resolution alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minimagen.advice import burning
from minimagen.autoencoders.autoencoder import Autoencoder
from minimagen.autoencoders.cache import LatentCache
from minimagen.autoencoders.pixels import Pixels
from minimagen.config import DiffusionConfig, LossConfig, SamplingConfig, Size
from minimagen.device import exactly, to_device
from minimagen.diffusion.augmentation import NoisedImages, augment
from minimagen.diffusion.guidance import Overshoot, guided, thresholded
from minimagen.diffusion.inpainting import Resampled, inpainted
from minimagen.diffusion.loss import loss_weight, per_example_error, training_times
from minimagen.diffusion.prediction import add_noise, target, to_x_0
from minimagen.diffusion.samplers import Denoiser, Step, build_step, integrate
from minimagen.diffusion.schedule import (
    Cosine,
    Level,
    Schedule,
    build_schedule,
    level_at,
    sampling_times,
)
from minimagen.draws import Draws, Noise
from minimagen.errors import UserError
from minimagen.given import shrunk
from minimagen.images import Batch, in_float32, size_of, to_model_space
from minimagen.learner import ParameterGroups
from minimagen.networks.network import DenoisingNetwork, TextStates
from minimagen.networks.unet import UNet
from minimagen.stages.coded import CodedStage
from minimagen.stages.crop import crop_together
from minimagen.stages.stage import Callback, Condition, Start, guidance_text
from minimagen.text.encoding import TextEncoding

ERROR_TIMES = (0.2, 0.4, 0.6, 0.8)
NoiseOf = Callable[[Sequence[int]], Tensor]
"""From the shape of an image to standard normal numbers, [b, *shape]."""


class DiffusionStage(CodedStage[SamplingConfig, Autoencoder]):
    """Samples images of one size by denoising.

    Args:
        index: Its place in the cascade, from 0.
        config: Network, schedule, objective and sampler.
        size: (height, width) of its images.
        low_res_size: Size of the previous stage's images; None for the first stage.
        text_embed_dim: Width of the text embeddings.
        autoencoder: Between images and what is denoised; the pixels themselves by default.
        low_res_autoencoder: What the low-resolution images of its training go through.
    """

    def __init__(
        self,
        index: int,
        config: DiffusionConfig,
        size: Size,
        low_res_size: Size | None,
        text_embed_dim: int,
        autoencoder: Autoencoder | None = None,
        low_res_autoencoder: Autoencoder | None = None,
    ) -> None:
        super().__init__(index, f"unet_{index}", autoencoder or Pixels(), low_res_autoencoder)
        self.config = config
        self.size, self.low_res_size = size, low_res_size
        self.image_sizes = (size,) if low_res_size is None else (size, low_res_size)
        if config.unet.channels != self.autoencoder.channels:
            raise UserError(
                f"stage {index}: unet.channels is {config.unet.channels}, the autoencoder's "
                f"latents have {self.autoencoder.channels}"
            )
        self.divisible(size, config.divisor)
        self.schedule, self.aug_schedule = self._schedules()
        self._overshoot = Overshoot()
        self.unet = self._network(text_embed_dim)
        # channels_last is what convolutions are fastest in
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lists others

    def _schedules(self) -> tuple[Schedule, Schedule]:
        """Return the schedules of x_t and of noised low-resolution images."""
        return build_schedule(self.config.schedule.kind, self.config.schedule.shift), Cosine()

    def _network(self, text_embed_dim: int) -> DenoisingNetwork:
        """Return the network."""
        return UNet(self.config.unet, text_embed_dim, lowres_cond=self.low_res_size is not None)

    def parameter_groups(self) -> ParameterGroups:
        """Return the network's matrices that map features to features, and all else."""
        return ParameterGroups.of(self, self.unet.hidden_matrices())

    def shardable(self) -> Sequence[nn.Module]:
        """Return the parts of the network that FSDP may gather one at a time."""
        return self.unet.shardable()

    def prepared(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches with latents, each image's encoded once, where there is an autoencoder."""
        if self.autoencoder.fingerprint is None:
            return batches
        moments, fingerprint = self.autoencoder.moments, self.autoencoder.fingerprint
        cache = LatentCache(moments, fingerprint, self.device)
        return (replace(batch, latents=cache(batch.images)) for batch in batches)

    def recompute_activations(self, on: bool) -> None:
        """Turn activation checkpointing of the network's blocks on or off."""
        self.unet.recompute_activations(on)

    def compile_blocks(self, on: bool) -> None:
        """Turn the compilation of the network's blocks on or off."""
        self.unet.compile_blocks(on)

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the training loss of every example, float32 [b].

        Every random number comes from ``draws``: time, noise, dropped captions, and for
        super-resolution the augmentation's level and noise, drawn per example.
        """
        x_0, low_res = self._example(batch, draws)
        loss = self.config.loss
        shift = loss.time_shift_at(draws.progress)
        t = training_times(draws.stratified("time"), shift, loss.times)
        level = self.schedule.level(to_device(t, self.device, torch.float32))
        eps = to_device(draws.normal("noise", x_0.shape[1:]), self.device)
        drop = draws.uniform("drop") < self.config.cond_drop_prob
        drop = to_device(drop, self.device)
        x_t = add_noise(x_0, eps, level.like(x_0))
        context = self.unet.encode_text(batch.text_embeds, batch.text_mask, drop)
        output = self._output(x_t, level, context, low_res)
        return self._weighted_error(output, x_0, eps, level, loss)

    def error_ratio(self, batch: Batch, draws: Draws) -> float | None:
        """Return the mean squared error of the estimates of x_0 over that of the enlarged images.

        The largest of some times. The mean of x_0 given what the network sees is nowhere worse than
        the enlarged image, which it sees, so that above 1 the network has not learned to denoise.
        """
        x_0, low_res = self._example(batch, draws, aug_level_max=0.0)
        if low_res is None or not self.autoencoder.bounded:
            return None
        sampling = self.settings(guidance_scale=1.0, thresholding="none")
        denoise = self.denoiser(batch.text_embeds, batch.text_mask, low_res, sampling)
        eps = draws.normal("noise", x_0.shape[1:]).to(self.device)
        errors = []
        for t in ERROR_TIMES:
            times = torch.full((len(x_0),), t, dtype=torch.float64)
            x_t = add_noise(x_0, eps, level_at(self.schedule, times).like(x_0))
            errors.append((denoise(x_t, times) - x_0).square().mean())
        return float(torch.stack(errors).max() / (low_res.images - x_0).square().mean())

    def notes(self) -> list[str]:
        """Return a warning if guidance drove many values out of range since the last call."""
        note = burning(self.index, *self._overshoot.take())
        return [note] if note else []

    def _example(
        self, batch: Batch, draws: Draws, aug_level_max: float | None = None
    ) -> tuple[Tensor, NoisedImages | None]:
        """Return x_0 and, for super-resolution, the noised images to enlarge."""
        aug_level_max = self.config.aug_level_max if aug_level_max is None else aug_level_max
        images = to_model_space(batch.images)
        if batch.low_res is None:
            self.divisible(size_of(images), self.config.divisor)
            return self._encoded(images, batch.latents, draws), None
        small = self.as_sampled(to_model_space(batch.low_res))
        _, part = self.config.trained_on(size_of(images), size_of(small))
        if part and part != size_of(small):
            images, small = crop_together(images, small, part, draws)
        aug_level = draws.uniform("aug_level") * aug_level_max
        aug_level = to_device(aug_level, self.device, torch.float32)
        noise = partial(draws.normal, "aug_noise")
        x_0 = self._encoded(images, None, draws)
        return x_0, self._noised_low_res(small, aug_level, noise, size_of(x_0))

    def _noised_low_res(
        self, images: Tensor, aug_level: Tensor, noise: NoiseOf, size: Size
    ) -> NoisedImages:
        """Return images of the stage before, noised at the times ``aug_level`` and enlarged."""
        numbers = to_device(noise(images.shape[1:]), self.device)
        return augment(images, aug_level, numbers, self.aug_schedule).enlarged(size)

    @torch.no_grad()
    def _encoded(self, images: Tensor, moments: Tensor | None, draws: Draws | None) -> Tensor:
        """Return what is denoised of images, of which ``moments`` may be known already."""
        with exactly(self.device):  # bfloat16 would show as noise in the images
            moments = self.autoencoder.moments(images) if moments is None else moments
            return self.autoencoder.sampled(moments, draws)

    def _weighted_error(
        self, output: Tensor, x_0: Tensor, eps: Tensor, level: Level, loss: LossConfig
    ) -> Tensor:
        """Return the weighted error of the network's output for every example, float32 [b]."""
        kind = self.config.prediction
        wanted = target(kind, x_0, eps, level.like(x_0))
        weight = loss_weight(kind, loss.space, loss.weight, level.log_snr, loss.min_snr_gamma)
        return per_example_error(output, wanted, weight, loss.error, loss.huber_delta)

    def _output(
        self, x_t: Tensor, level: Level, context: TextStates, low_res: NoisedImages | None
    ) -> Tensor:
        """Return the stage's prediction, float32: the network's output plus what is known already.

        A network that outputs x_0 sees the linear estimate alpha x_t: pure noise would disturb it.
        For super-resolution the known part is the prediction where x_0 = alpha_aug low_res: the
        enlarged image, faded by its own noise. The network adds what enlarging lacks, and colors
        cannot shift. With eps output there is no known part, as in the paper.
        """
        kind, shaped = self.config.prediction, level.like(x_t)
        seen = shaped.alpha * x_t if kind == "x_0" else x_t
        if low_res is None:
            return in_float32(self.unet(seen, level.log_snr, context))
        images, aug = low_res
        output = in_float32(self.unet(seen, level.log_snr, context, images, aug.log_snr))
        if kind == "eps":
            return output
        known = aug.like(images).alpha * images
        return output + target(kind, known, torch.zeros_like(known), shaped)

    def settings(self, **changes: Any) -> SamplingConfig:
        """Return the stage's sampling settings, with ``changes`` to fields of SamplingConfig."""
        sampling = self.config.sampling.replace(**changes)
        return self.config.checked(sampling, f"stage {self.index}")

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        noise: Noise,
        sampling: SamplingConfig,
        start: Start | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return one image per row of ``condition``: [b 3 h w] in [-1, 1]; see ``Stage.sample``.

        The noise is called "start", "aug" (of low-resolution images), by the steps' numbers, and
        "again" and a number where steps are repeated.
        """
        height, width = self.divisible(condition.size or self.size, self.config.divisor)
        factor = self.autoencoder.factor
        shape = (self.autoencoder.channels, height // factor, width // factor)
        step, denoise = self._step(sampling), self._denoiser(condition, noise, shape, sampling)
        given = None if condition.given is None else condition.given.to(self.device)
        start = start or Start(noise("start", shape).to(self.device), 1.0)
        times = self.times(sampling, start.t if given is None else given.strength)
        if given is not None:
            x_0 = self._encoded(given.images, None, None)
            start = self._noised(x_0, start.x_t, float(times[0]))
            if given.mask is not None:
                new = shrunk(given.mask, shape[1:])
                denoise = inpainted(denoise, x_0, new, self.schedule, given.resample)
                again = partial(self._again, noise, shape)
                step = Resampled(step, self.schedule, given.resample, again)
        latents = integrate(
            step, denoise, start.x_t, times, lambda i: noise(i, shape).to(self.device), callback
        )
        images = self.preview(latents)
        return images if given is None else given.pasted(images)

    @torch.inference_mode()
    def preview(self, estimate: Tensor) -> Tensor:
        """Return the images of an estimate of x_0, [b 3 h w] in [-1, 1]."""
        with exactly(self.device):
            return self.autoencoder.decode(estimate.float()).clamp(-1.0, 1.0)

    def times(self, sampling: SamplingConfig, t: float) -> Tensor:
        """Return the times of the steps from about ``t`` to 0, float64 on the CPU.

        As many steps as the share ``t`` of all, at least one.
        """
        t = self.nearest_time(t)
        return sampling_times(max(1, round(t * sampling.timesteps)), t, sampling.time_power)

    def nearest_time(self, t: float) -> float:
        """Return the time nearest to ``t`` that sampling may begin at."""
        return t

    def _again(self, noise: Noise, shape: Sequence[int], number: int) -> Tensor:
        return noise(f"again {number}", shape).to(self.device)

    def _noised(self, x_0: Tensor, eps: Tensor, t: float) -> Start:
        level = level_at(self.schedule, torch.tensor(t, dtype=torch.float64))
        return Start(add_noise(x_0, eps, level).to(x_0.dtype), t)

    def _step(self, sampling: SamplingConfig) -> Step:
        if callable(sampling.sampler):
            return sampling.sampler(self.schedule)
        return build_step(sampling.sampler, self.schedule, sampling.eta)

    def _denoiser(
        self, condition: Condition, noise: Noise, shape: Sequence[int], sampling: SamplingConfig
    ) -> Denoiser:
        """Return the denoiser of a batch of images; low-resolution images are noised here, once."""
        low_res = None
        if condition.low_res is not None:
            level = torch.full((len(condition.low_res),), sampling.aug_level).to(self.device)
            size, named = (shape[-2], shape[-1]), partial(noise, "aug")
            low_res = self._noised_low_res(condition.low_res, level, named, size)
        text = condition.text_embeds, condition.text_mask
        return self.denoiser(*text, low_res, sampling, condition.negative)

    def denoiser(
        self,
        text_embeds: Tensor,
        text_mask: Tensor,
        low_res: NoisedImages | None,
        sampling: SamplingConfig,
        negative: TextEncoding | None = None,
    ) -> Denoiser:
        """Return network, guidance and thresholding as one denoiser.

        Args:
            text_embeds: float [b n d].
            text_mask: bool [b n], True = real token.
            low_res: For super-resolution the noised images of the stage before, enlarged to this
                stage's size [b c h w].
            sampling: Guidance and thresholding.
            negative: What guidance leads away from, instead of from no caption.
        """
        scale = sampling.guidance_scale
        copies = 1 if scale == 1.0 else 2  # the second copy of the rows is without captions
        context = self.unet.encode_text(*guidance_text(text_embeds, text_mask, copies, negative))
        if low_res is not None:
            low_res = low_res.repeat(copies)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            count = len(x_t)
            level = self.schedule.level(t).map(lambda each: to_device(each, x_t.device, x_t.dtype))
            known = None if low_res is None else low_res.rows(count)
            output = self._output(x_t, level, context.rows(count), known)
            return to_x_0(self.config.prediction, output, x_t, level.like(x_t))

        guide = denoise if copies == 1 else guided(denoise, scale, sampling.guidance_interval)
        if not self.autoencoder.bounded:
            return guide
        if copies == 2:
            guide = self._overshoot.measured(guide, scale)
        percentile = sampling.dynamic_thresholding_percentile
        return thresholded(guide, sampling.thresholding, percentile)
