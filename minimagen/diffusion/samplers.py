"""Samplers: from noise to an image, given a denoiser. One loop, and one step for each sampler.

A denoiser (x_t, t) -> x_0_hat holds the network, guidance and thresholding; a step knows of none of
them. Times fall from t_0 to t_n = 0, where a step lands on x_0_hat itself (sigma = 0): n steps make
n calls of the denoiser (Heun: 2 n - 1). Images keep their dtype; levels are scalars in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minimagen.config import SamplerName
from minimagen.diffusion.schedule import Level, Schedule, level_at

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [b c h w], t [b], float64) -> x_0_hat [b c h w]; each row at its own time."""
Callback = Callable[[int, int, Tensor], None]
"""Called after each step with (step, number of steps, x_0_hat)."""


class Memory(NamedTuple):
    """What a step may use of the step before."""

    x_0_hat: Tensor
    t: Tensor
    """The time that x_0_hat was estimated at, float64 []."""


class Step(Protocol):
    """One step of a sampler."""

    def __call__(
        self,
        denoise: Denoiser,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: Memory | None,
        noise: Callable[[], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Go from x_t to x_s.

        Args:
            denoise: The denoiser.
            x: x_t, [b c h w].
            t: Its time, float64 [] on the CPU.
            s: The time to go to, like ``t`` and below it.
            memory: Of the step before; None in the first one.
            noise: Returns this step's own standard normal numbers, like ``x``.

        Returns:
            x_s and the estimate x_0_hat at t.
        """
        ...


def integrate(
    step: Step,
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    noise: Callable[[int], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """Return x at the last of ``times``: the sampling loop.

    Args:
        step: The sampler's step.
        denoise: The denoiser.
        x: At the first time, [b c h w].
        times: t_0 > ... > t_n, float64 [n + 1] on the CPU.
        noise: Returns the standard normal numbers of step i, like ``x``.
        callback: Called after each step.
    """
    memory = None
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        x, x_0_hat = step(denoise, x, t, s, memory, partial(noise, i))
        memory = Memory(x_0_hat, t)
        if callback is not None:
            callback(i, len(times) - 1, x_0_hat)
    return x


def build_step(name: SamplerName, schedule: Schedule, eta: float = 0.0) -> Step:
    """Return the step of the sampler called ``name``; only ddim reads ``eta``."""
    match name:
        case "ddpm":
            return DDPM(schedule)
        case "ddim":
            return DDIM(schedule, eta)
        case "dpm++":
            return DPMSolverPP(schedule)
        case "heun":
            return Heun(schedule)


def posterior(x_t: Tensor, x_0: Tensor, now: Level, then: Level) -> tuple[Tensor, Tensor]:
    """Return mean and variance of q(x_s | x_t, x_0), s < t (DDPM, eq. 6 and 7, any two times).

    With a = alpha_t / alpha_s and b = sigma_t^2 - a^2 sigma_s^2, the variance that s -> t adds:
    mean = (a sigma_s^2 x_t + alpha_s b x_0) / sigma_t^2 and variance = b sigma_s^2 / sigma_t^2.
    """
    a = now.alpha / then.alpha
    b = -torch.expm1(now.log_snr - then.log_snr)  # b / sigma_t^2; 1 where s is clean
    keep = a * then.sigma**2 / now.sigma**2
    return keep * x_t + then.alpha * b * x_0, b * then.sigma**2


def ddim_step(
    x_t: Tensor, x_0_hat: Tensor, now: Level, then: Level, variance: Tensor | float = 0.0
) -> Tensor:
    """Return x_s = alpha_s x_0_hat + (sigma_s^2 - variance)^1/2 eps_hat (arXiv 2010.02502, eq. 12).

    The noise of that ``variance`` is not added yet.
    """
    keep = (then.sigma**2 - variance).clamp(min=0.0).sqrt() / now.sigma
    return keep * x_t + (then.alpha - keep * now.alpha) * x_0_hat


def exponential_step(x_t: Tensor, x_0_hat: Tensor, now: Level, then: Level) -> Tensor:
    """Return x_s where x_0_hat stays the same on the way (arXiv 2211.01095, eq. 8, order 1)."""
    h = (then.log_snr - now.log_snr) / 2
    return (then.sigma / now.sigma) * x_t - then.alpha * torch.expm1(-h) * x_0_hat


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling with the posterior variance (DDPM, arXiv 2006.11239, algorithm 2)."""

    schedule: Schedule

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
        x_0_hat = denoise(x, t.expand(len(x)))
        x, variance = posterior(x, x_0_hat, level_at(self.schedule, t), level_at(self.schedule, s))
        return (x + variance.sqrt() * noise() if variance else x), x_0_hat


@dataclass(frozen=True)
class DDIM:
    """DDIM (arXiv 2010.02502, eq. 12); eta = 1 has the variance of DDPM (eq. 16)."""

    schedule: Schedule
    eta: float = 0.0

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
        now, then = level_at(self.schedule, t), level_at(self.schedule, s)
        x_0_hat = denoise(x, t.expand(len(x)))
        variance = self.eta**2 * posterior(x, x_0_hat, now, then)[1]
        x = ddim_step(x, x_0_hat, now, then, variance)
        return (x + variance.sqrt() * noise() if variance else x), x_0_hat


@dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2); the first and last steps are of order 1."""

    schedule: Schedule

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
        now, then = level_at(self.schedule, t), level_at(self.schedule, s)
        x_0_hat = denoise(x, t.expand(len(x)))
        h, direction = (then.log_snr - now.log_snr) / 2, x_0_hat
        if memory is not None and then.sigma:
            before = (now.log_snr - level_at(self.schedule, memory.t).log_snr) / 2
            if before:  # 0 where the log-SNR is clipped
                direction = x_0_hat + (x_0_hat - memory.x_0_hat) * (h / (2.0 * before))
        return exponential_step(x, direction, now, then), x_0_hat


@dataclass(frozen=True)
class Heun:
    """Heun's predictor and corrector on the probability-flow ODE, linear part solved exactly.

    EDM's algorithm 1 (arXiv 2206.00364) in the exponential form (ETD2RK): exact where x_0_hat is
    linear in the half log-SNR, which keeps the first steps, from almost pure noise, stable. The
    last step is the predictor alone.
    """

    schedule: Schedule

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
        now, then = level_at(self.schedule, t), level_at(self.schedule, s)
        x_0_hat = denoise(x, t.expand(len(x)))
        h = (then.log_snr - now.log_snr) / 2
        x = exponential_step(x, x_0_hat, now, then)
        if then.sigma and h:  # h = 0 where the log-SNR is clipped
            corrected = denoise(x, s.expand(len(x)))
            x = x + then.alpha * (1.0 + torch.expm1(-h) / h) * (corrected - x_0_hat)
        return x, x_0_hat
