"""Inpainting: the estimate of what is known is what is known (RePaint, arXiv 2201.09865)."""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from minimagen.diffusion.samplers import Denoiser, Memory, Step
from minimagen.diffusion.schedule import Schedule, level_at


def inpainted(denoise: Denoiser, x_0: Tensor, mask: Tensor) -> Denoiser:
    """Return the denoiser whose estimate is ``x_0`` where it is known.

    Samplers without noise of their own then keep x_t = alpha_t x_0 + sigma_t eps there, with the
    noise that they began with: what RePaint's equation 8a draws at every step.

    Args:
        denoise: Estimates everything.
        x_0: What is known, [b c h w].
        mask: [b 1 h w], 1 where it is not known.
    """
    return lambda x_t, t: torch.lerp(x_0.to(x_t), denoise(x_t, t), mask.to(x_t))


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
