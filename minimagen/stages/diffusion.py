"""A diffusion stage: network + schedule + prediction + sampler. Base and super-resolution alike."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from minimagen.config import LossConfig, SamplingConfig, Size, StageConfig
from minimagen.config.sizes import scaled
from minimagen.diffusion.augmentation import augment
from minimagen.diffusion.guidance import guidance_at, guide, threshold
from minimagen.diffusion.loss import loss_weight, per_example_squared_error, training_times
from minimagen.diffusion.prediction import add_noise, target, to_x_0
from minimagen.diffusion.samplers import SAMPLERS, Denoiser
from minimagen.diffusion.schedule import Schedule, noise_level, sampling_times
from minimagen.draws import Draws, SeededNoise
from minimagen.images import Batch, resize, resize_clamped, to_model_space
from minimagen.networks.embeddings import TextContext
from minimagen.networks.unet import UNet
from minimagen.stages.stage import Callback, Condition

Estimator = Callable[[Tensor, Tensor], Tensor]
"""(x_t [b 3 h w], t [b]) -> x_0_hat [b 3 h w]; each row at its own time."""


class DiffusionStage(nn.Module):
    """Paints pictures of one size by denoising.

    Args:
        index: Its place in the cascade, from 0.
        config: Network, schedule, objective and sampler.
        size: (height, width) of its pictures.
        low_res_size: Size of the previous stage's pictures; None for the first stage.
        text_embed_dim: Width of the text embeddings.
        full_size: Size of the cascade's final pictures, which training gets. Where they come in
            another one (aspect buckets), this stage's scale with it; without it they never do.
    """

    def __init__(
        self,
        index: int,
        config: StageConfig,
        size: Size,
        low_res_size: Size | None,
        text_embed_dim: int,
        full_size: Size | None = None,
    ) -> None:
        super().__init__()
        self.index = index
        self.config = config
        self.size = size
        self.low_res_size = low_res_size
        self.full_size = full_size
        self.schedule = Schedule(config.schedule.kind, config.schedule.shift)
        self.aug_schedule = Schedule("cosine")
        self.unet = UNet(config.unet, text_embed_dim, lowres_cond=low_res_size is not None)
        # channels_last is what convolutions are fastest in
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return next(self.parameters()).device

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Return the network's matrices that Muon may train."""
        return self.unet.hidden_matrices()

    def shardable(self) -> list[nn.Module]:
        """Return the parts of the network that FSDP may put together one at a time."""
        return self.unet.shardable()

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the training loss of every example, float32 [b].

        Every random number comes from ``draws``: time, noise, dropped captions, and for
        super-resolution the augmentation's level and noise, drawn per example.
        """
        x_0, low_res, aug_log_snr = self._example(batch, draws)
        t = training_times(draws.stratified("time"), self.config.loss.time_shift)
        t = t.to(self.device, torch.float32)
        eps = draws.normal("noise", x_0.shape[1:]).to(self.device)
        drop = (draws.uniform("drop") < self.config.cond_drop_prob).to(self.device)
        log_snr = self.schedule.log_snr(t)
        x_t = add_noise(x_0, eps, noise_level(log_snr))
        context = self.unet.encode_text(batch.text_embeds, batch.text_mask, drop)
        output = self._output(x_t, log_snr, context, low_res, aug_log_snr)
        return self._weighted_error(output, x_0, eps, log_snr, self.config.loss)

    def _example(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return x_0 and, for super-resolution, the noised low-resolution pictures and their
        log-SNR, everything as training draws it.
        """
        pictures = to_model_space(batch.images)
        size, low_res_size = self._sizes_for(pictures)
        x_0 = resize_clamped(pictures, size)
        if low_res_size is None:
            return x_0, None, None
        small = resize_clamped(pictures, low_res_size)
        _, part = self.config.trained_on(size, low_res_size)
        if part and part != low_res_size:
            x_0, small = crop_together(x_0, small, part, draws)
        aug_level = draws.uniform("aug_level") * self.config.aug_level_max
        aug_level = aug_level.to(self.device, torch.float32)
        noise = draws.normal("aug_noise", small.shape[1:])
        return x_0, *self._augmented(small, aug_level, noise)

    def _weighted_error(
        self, output: Tensor, x_0: Tensor, eps: Tensor, log_snr: Tensor, loss: LossConfig
    ) -> Tensor:
        """Return the weighted error of the network's output for every example, float32 [b]."""
        prediction = self.config.prediction
        wanted = target(prediction, x_0, eps, noise_level(log_snr))
        weight = loss_weight(prediction, loss.space, loss.weight, log_snr, loss.min_snr_gamma)
        return per_example_squared_error(output, wanted) * weight

    def _sizes_for(self, pictures: Tensor) -> tuple[Size, Size | None]:
        """Return this stage's size and that of the stage before for final ``pictures``."""
        low, full = self.low_res_size, self.full_size
        if full is None:
            return self.size, low
        given = (pictures.shape[-2], pictures.shape[-1])
        return scaled(self.size, full, given), None if low is None else scaled(low, full, given)

    def _output(
        self,
        x_t: Tensor,
        log_snr: Tensor,
        context: TextContext,
        low_res: Tensor | None,
        aug_log_snr: Tensor | None,
    ) -> Tensor:
        """Return the stage's prediction, float32: the network's output, and for super-resolution
        what the low-resolution picture already tells.

        That is the prediction of one who knows only x_0 = the enlarged picture, faded by how noisy
        it is. So the network paints what enlarging lacks, and colours cannot shift. It changes
        nothing where the prediction is eps, as in the paper.
        """
        level = noise_level(log_snr)
        # What outputs x_0 refines the linear estimate alpha x_t: pure noise would only disturb it.
        seen = level.alpha * x_t if self.config.prediction == "x_0" else x_t
        output = self.unet(seen, log_snr, context, low_res, aug_log_snr).float()
        if low_res is None or aug_log_snr is None or self.config.prediction == "eps":
            return output
        enlarged = noise_level(aug_log_snr).alpha * resize(low_res, (x_t.shape[-2], x_t.shape[-1]))
        nothing = torch.zeros_like(enlarged)
        return output + target(self.config.prediction, enlarged, nothing, level)

    def _augmented(
        self, low_res: Tensor, aug_level: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the noised low-resolution pictures and their log-SNR [b]."""
        noised = augment(low_res, aug_level, noise.to(low_res.device), self.aug_schedule)
        return noised, self.aug_schedule.log_snr(aug_level)

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        seeds: Sequence[int],
        sampling: SamplingConfig | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return one picture per row of ``condition``: [b 3 h w] in [-1, 1].

        Args:
            condition: Captions and, for super-resolution, pictures of the stage before.
            seeds: One per row: the picture's noise depends on its seed and this stage only.
            sampling: Steps, guidance, sampler ...; this stage's own settings by default.
            callback: Told every step.
        """
        sampling = sampling or self.config.sampling
        shape = (self.config.unet.channels, *(condition.size or self.size))

        def noise(name: str | int) -> Tensor:
            numbers = SeededNoise(seeds, self.index)(name, shape)
            return numbers.to(self.device)

        x = SAMPLERS[sampling.sampler](
            self._denoiser(condition, seeds, sampling),
            noise("start"),
            sampling_times(sampling.timesteps),
            self.schedule,
            noise,
            sampling.eta,
            callback,
        )
        return x.clamp(-1.0, 1.0)

    def _denoiser(
        self, condition: Condition, seeds: Sequence[int], sampling: SamplingConfig
    ) -> Denoiser:
        """Return (x_t, t) -> x_0_hat; the low-resolution pictures are noised here, once."""
        rows = len(seeds)
        low_res = aug_log_snr = None
        if self.low_res_size is not None:
            assert condition.low_res is not None
            noise = SeededNoise(seeds, self.index)("aug", condition.low_res.shape[1:])
            aug_level = torch.full((rows,), sampling.aug_level, device=self.device)
            low_res, aug_log_snr = self._augmented(condition.low_res, aug_level, noise)
        text = (condition.text_embeds, condition.text_mask)
        estimate = self.estimator(*text, low_res, aug_log_snr, sampling)
        return lambda x_t, t: estimate(x_t, torch.full((rows,), t, dtype=torch.float64))

    def estimator(
        self,
        text_embeds: Tensor,
        text_mask: Tensor,
        low_res: Tensor | None,
        aug_log_snr: Tensor | None,
        sampling: SamplingConfig,
    ) -> Estimator:
        """Return (x_t, t) -> x_0_hat: network, guidance and thresholding in one closure.

        The conditional and the unconditional half run as one batch; the text's keys and values are
        made here, once.

        Args:
            text_embeds: float [b n d].
            text_mask: bool [b n], True = real token.
            low_res: For super-resolution the noised pictures of the stage before, [b 3 h w].
            aug_log_snr: Their log-SNR, [b].
            sampling: Guidance and thresholding.
        """
        rows = len(text_embeds)
        both = sampling.guidance_scale != 1.0
        drop = torch.zeros(rows, dtype=torch.bool, device=self.device)
        if both:
            text_embeds, text_mask = text_embeds.repeat(2, 1, 1), text_mask.repeat(2, 1)
            drop = torch.cat([drop, ~drop])
        context = self.unet.encode_text(text_embeds, text_mask, drop)

        def predict(x_t: Tensor, log_snr: Tensor, halves: int) -> Tensor:
            x_t, log_snr = x_t.repeat(halves, 1, 1, 1), log_snr.repeat(halves)
            output = self._output(
                x_t,
                log_snr,
                context if halves == 2 or not both else context.rows(rows),
                None if low_res is None else low_res.repeat(halves, 1, 1, 1),
                None if aug_log_snr is None else aug_log_snr.repeat(halves),
            )
            return to_x_0(self.config.prediction, output, x_t, noise_level(log_snr))

        def estimate(x_t: Tensor, t: Tensor) -> Tensor:
            log_snr = self.schedule.log_snr(t).to(self.device, torch.float32)
            scale = guidance_at(t, sampling.guidance_scale, sampling.guidance_interval)
            if bool((scale != 1.0).any()):
                cond, uncond = predict(x_t, log_snr, halves=2).chunk(2)
                x_0_hat = guide(cond, uncond, scale.to(cond).reshape(-1, 1, 1, 1))
            else:
                x_0_hat = predict(x_t, log_snr, halves=1)
            return threshold(
                x_0_hat, sampling.thresholding, sampling.dynamic_thresholding_percentile
            )

        return estimate


def crop_together(
    large: Tensor, small: Tensor, small_size: Size, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Cut the same part out of a picture and of the same picture made smaller, row by row.

    Args:
        large: [b c h w]; h and w are one whole multiple of ``small``'s.
        small: [b c h' w'].
        small_size: (height, width) of the part of ``small``.
        draws: Where the places come from: anywhere on the grid of ``small``'s pixels.

    Returns:
        The parts of ``large`` and of ``small``.
    """
    height, width = small_size
    tops = draws.uniform("crop_y") * (small.shape[-2] - height + 1)
    lefts = draws.uniform("crop_x") * (small.shape[-1] - width + 1)
    corners = list(zip(tops.long().tolist(), lefts.long().tolist(), strict=True))

    def cut(pictures: Tensor, scale: int) -> Tensor:
        boxes = [
            (
                slice(top * scale, (top + height) * scale),
                slice(left * scale, (left + width) * scale),
            )
            for top, left in corners
        ]
        return torch.stack([p[:, y, x] for p, (y, x) in zip(pictures, boxes, strict=True)])

    return cut(large, large.shape[-1] // small.shape[-1]), cut(small, 1)
