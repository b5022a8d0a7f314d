"""Inpainting: the estimate of what is known is what is known (RePaint, arXiv 2201.09865)."""

from collections.abc import Callable
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from minimagen.diffusion.samplers import Denoiser, Memory, Step
from minimagen.diffusion.schedule import Schedule, level_at

SWEEPS = 16  # of relaxation at every size: more change nothing that is seen
SMALLEST = 2  # px: the smallest size of the relaxation


def inpainted(
    denoise: Denoiser, x_0: Tensor, mask: Tensor, schedule: Schedule, times: int = 1
) -> Denoiser:
    """Return the denoiser whose estimate is ``x_0`` where it is known.

    Samplers without noise of their own then keep x_t = alpha_t x_0 + sigma_t eps there, with the
    noise that they began with: what RePaint's equation 8a draws at every step.

    By how much the estimate was wrong there goes on, smoothly, into what is not known, so that
    there is no seam: Poisson editing (Perez et al., SIGGRAPH 2003, equation 4) at each step. The
    correction has the weight alpha_t^2, for in much noise the estimate is not that of this image,
    divided by how often the step is taken, for repeated steps correct it themselves.

    Args:
        denoise: Estimates everything.
        x_0: What is known, [b c h w].
        mask: [b 1 h w], 1 where it is not known.
        schedule: Of the noise.
        times: How often each step is taken.
    """

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        x_0_hat, known, new = denoise(x_t, t), x_0.to(x_t), mask.to(x_t)
        weight = level_at(schedule, t).alpha.to(x_t) ** 2 / times
        x_0_hat = x_0_hat + weight.reshape(-1, 1, 1, 1) * continued(known - x_0_hat, new)
        return torch.lerp(known, x_0_hat, new)

    return estimate


def continued(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` [b c h w] where ``mask`` [b 1 h w] is 0, and continue them where it is 1.

    There each pixel is the mean of the four around it, nearly: Laplace's equation, relaxed
    ``SWEEPS`` times at every size, from small to large.
    """
    known = (mask <= 0).to(values)
    return _relaxed(values * known, known)


def _relaxed(values: Tensor, known: Tensor) -> Tensor:
    """Return ``values`` where ``known`` is 1, continued where it is 0."""
    start = torch.zeros_like(values)
    height, width = values.shape[-2:]
    if max(height, width) > SMALLEST:
        share = _halved(known)
        means = _halved(values) / share.clamp(min=1e-6)
        coarse = _relaxed(means, (share > 0).to(values))
        start = F.interpolate(coarse, scale_factor=2, mode="bilinear")[..., :height, :width]
    filled = torch.where(known > 0, values, start)
    for _ in range(SWEEPS):
        around = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        sides = around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
        ends = around[..., :-2, 1:-1] + around[..., 2:, 1:-1]
        filled = torch.where(known > 0, values, (sides + ends) / 4)
    return filled


def _halved(x: Tensor) -> Tensor:
    """Return [b c h w] at half the size; an odd side gets a row of zeros, as unknown pixels are."""
    height, width = x.shape[-2:]
    return F.avg_pool2d(F.pad(x, (0, width % 2, 0, height % 2)), 2)


class Resampled:
    """A step that is taken several times, noised back from s to t in between (algorithm 1).

    Args:
        step: The sampler's step.
        schedule: Of the noise.
        times: How often; 1 is the step itself.
        noise: Returns standard normal numbers like x, other ones for every number.
    """

    def __init__(
        self, step: Step, schedule: Schedule, times: int, noise: Callable[[int], Tensor]
    ) -> None:
        self._step, self._schedule, self._times, self._noise = step, schedule, times, noise
        self._draws = count()

    def __call__(
        self,
        denoise: Denoiser,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: Memory | None,
        noise: Callable[[], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """See ``Step``."""
        x_s, x_0_hat = self._step(denoise, x, t, s, memory, noise)
        for _ in range(self._times - 1):
            x_t = self._noised_back(x_s, t, s)
            x_s, x_0_hat = self._step(denoise, x_t, t, s, None, lambda: self._fresh())
        return x_s, x_0_hat

    def _noised_back(self, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return a draw of q(x_t | x_s): alpha_t / alpha_s x_s + the noise that is missing."""
        now, then = level_at(self._schedule, t), level_at(self._schedule, s)
        ratio = now.alpha / then.alpha
        deviation = (now.sigma**2 - ratio**2 * then.sigma**2).clamp(min=0.0).sqrt()
        return (ratio * x_s + deviation * self._fresh()).to(x_s.dtype)

    def _fresh(self) -> Tensor:
        return self._noise(next(self._draws))
