"""Samplers: from noise to a picture, given a denoiser. Plain functions of one signature.

    sampler(denoise, x, times, schedule, noise, eta, callback) -> x at the last time

denoise(x_t, t) -> x_0_hat holds the network, the guidance and the thresholding; samplers know of
none of them. ``times`` falls from t_0 to t_n; the last step lands on x_0_hat itself (sigma = 0), so
a chain of n steps makes n calls of the denoiser (Heun: 2 n - 1). ``noise(i)`` gives the fresh
standard normal numbers of step i; ``callback(i, n, x_0_hat)`` is told every step. Everything is
computed in the dtype of ``x``; the scalars of each step in float64.
"""

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]
Noise = Callable[[int], Tensor]
Callback = Callable[[int, int, Tensor], None]


class LogSnr(Protocol):
    """What a sampler needs of a schedule."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Return the log signal-to-noise ratio at times ``t``."""


class Level:
    """The scalars of one time, in float64; ``clean`` is the end of the chain, sigma = 0."""

    def __init__(self, log_snr: float, clean: bool = False) -> None:
        self.snr = math.inf if clean else math.exp(log_snr)
        self.alpha = 1.0 if clean else math.sqrt(1.0 / (1.0 + math.exp(-log_snr)))
        self.sigma = 0.0 if clean else math.sqrt(1.0 / (1.0 + math.exp(log_snr)))
        self.half_log_snr = math.inf if clean else log_snr / 2  # lambda of DPM-Solver


def _levels(times: Tensor, schedule: LogSnr) -> list[Level]:
    log_snrs = schedule.log_snr(times.double()).tolist()
    return [Level(log_snr) for log_snr in log_snrs[:-1]] + [Level(log_snrs[-1], clean=True)]


def _report(callback: Callback | None, step: int, times: Tensor, x_0_hat: Tensor) -> None:
    if callback is not None:
        callback(step, len(times) - 1, x_0_hat)


def posterior(x_t: Tensor, x_0: Tensor, now: Level, then: Level) -> tuple[Tensor, float]:
    """Return mean and variance of q(x_s | x_t, x_0), s < t (DDPM, eq. 6 and 7, any two times).

    With a = alpha_t / alpha_s and b = sigma_t^2 - a^2 sigma_s^2, the variance that s -> t adds:
    mean = (a sigma_s^2 x_t + alpha_s b x_0) / sigma_t^2 and variance = b sigma_s^2 / sigma_t^2.
    """
    a = now.alpha / then.alpha
    b = -math.expm1(math.log(now.snr / then.snr)) if then.sigma else 1.0  # b / sigma_t^2
    keep = a * then.sigma**2 / now.sigma**2
    return keep * x_t + then.alpha * b * x_0, b * then.sigma**2


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: LogSnr,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling with the posterior variance (DDPM, arXiv 2006.11239, algorithm 2)."""
    levels = _levels(times, schedule)
    for i, (now, then) in enumerate(zip(levels, levels[1:], strict=False)):
        x_0_hat = denoise(x, float(times[i]))
        x, variance = posterior(x, x_0_hat, now, then)
        if variance:
            x = x + math.sqrt(variance) * noise(i)
        _report(callback, i, times, x_0_hat)
    return x


def ddim(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: LogSnr,
    noise: Noise,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12); eta = 1 has the variance of DDPM (eq. 16)."""
    levels = _levels(times, schedule)
    for i, (now, then) in enumerate(zip(levels, levels[1:], strict=False)):
        x_0_hat = denoise(x, float(times[i]))
        eps_hat = (x - now.alpha * x_0_hat) / now.sigma
        variance = eta**2 * posterior(x, x_0_hat, now, then)[1]
        x = then.alpha * x_0_hat + math.sqrt(max(then.sigma**2 - variance, 0.0)) * eps_hat
        if variance:
            x = x + math.sqrt(variance) * noise(i)
        _report(callback, i, times, x_0_hat)
    return x


def dpm_solver_pp(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: LogSnr,
    noise: Noise,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2); the first and last steps are of order 1."""
    levels = _levels(times, schedule)
    previous: Tensor | None = None
    previous_h = 0.0
    for i, (now, then) in enumerate(zip(levels, levels[1:], strict=False)):
        x_0_hat = denoise(x, float(times[i]))
        h = then.half_log_snr - now.half_log_snr
        direction = x_0_hat
        if previous is not None and previous_h and then.sigma:  # h = 0 inside the clipped range
            direction = x_0_hat + (x_0_hat - previous) * (h / (2.0 * previous_h))
        x = (then.sigma / now.sigma) * x - then.alpha * math.expm1(-h) * direction
        previous, previous_h = x_0_hat, h
        _report(callback, i, times, x_0_hat)
    return x


def heun(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: LogSnr,
    noise: Noise,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's predictor and corrector on the probability-flow ODE, linear part solved exactly.

    EDM's algorithm 1 (arXiv 2206.00364) in the exponential form (ETD2RK): exact where x_0_hat is
    linear in the half log-SNR, which keeps the first steps, from almost pure noise, stable. The
    last step is the predictor alone.
    """
    levels = _levels(times, schedule)
    for i, (now, then) in enumerate(zip(levels, levels[1:], strict=False)):
        x_0_hat = denoise(x, float(times[i]))
        h = then.half_log_snr - now.half_log_snr
        x = (then.sigma / now.sigma) * x - then.alpha * math.expm1(-h) * x_0_hat
        if then.sigma and h:  # h = 0 inside the clipped range of log-SNR
            corrected = denoise(x, float(times[i + 1]))
            x = x + then.alpha * (1.0 + math.expm1(-h) / h) * (corrected - x_0_hat)
        _report(callback, i, times, x_0_hat)
    return x


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm++": dpm_solver_pp, "heun": heun}
