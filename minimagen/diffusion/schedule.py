"""Noise schedules: time -> alpha and sigma of x_t = alpha_t x_0 + sigma_t eps; t = 1 is noise.

The schedules here are variance-preserving, alpha_t^2 + sigma_t^2 = 1, and are given by their
log_snr = log(alpha_t^2 / sigma_t^2), which falls with t and is clipped to [-20, 20].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from minimagen.device import to_device

LOG_SNR_LIMIT = 20.0
BETA_MIN, BETA_MAX = 0.1, 20.0  # DDPM's 1e-4 ... 0.02 over 1000 steps, per unit of time


class Level(NamedTuple):
    """A noise level: three tensors of one shape, that of the times they belong to."""

    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor
    """2 log(alpha / sigma), the form in which networks get the level."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Level":
        """Return the level with each of its tensors changed."""
        return Level(change(self.alpha), change(self.sigma), change(self.log_snr))

    def like(self, x: Tensor) -> "Level":
        """Return levels [b] shaped [b 1 ... 1] to multiply ``x`` [b ...], where and as it is."""
        rows = self.map(lambda each: each.reshape(-1, *[1] * (x.ndim - 1)))
        return rows.map(lambda each: to_device(each, x.device, x.dtype))


class Schedule(Protocol):
    """What diffusion needs of a schedule."""

    def level(self, t: Tensor) -> Level:
        """Return the noise level at times ``t`` in [0, 1], of any shape."""
        ...


def variance_preserving(log_snr: Tensor) -> Level:
    """Return the level with alpha^2 + sigma^2 = 1 at ``log_snr``."""
    return Level(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt(), log_snr)


def level_at(schedule: Schedule, t: Tensor) -> Level:
    """Return the level at times ``t`` in float64, with sigma = 0 at t = 0: a chain ends there."""
    (alpha, sigma, log_snr), end = schedule.level(t.double()), t <= 0.0
    return Level(
        torch.where(end, 1.0, alpha),
        torch.where(end, 0.0, sigma),
        torch.where(end, math.inf, log_snr),
    )


class VariancePreserving(ABC):
    """A schedule given by its log-SNR.

    Args:
        shift: Added to the log-SNR at every time; see ``resolution_shift``.
    """

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def level(self, t: Tensor) -> Level:
        """Return the noise level at times ``t`` in [0, 1], of any shape."""
        return variance_preserving(self.log_snr(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return the log signal-to-noise ratio at times ``t`` in [0, 1], of any shape."""
        return (self._log_snr(t) + self.shift).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)

    def time(self, log_snr: Tensor) -> Tensor:
        """Return t with ``log_snr(t)`` = the given one: the exact inverse inside the clipping."""
        return self._time(log_snr - self.shift)

    @abstractmethod
    def _log_snr(self, t: Tensor) -> Tensor:
        """Return the log-SNR without shift and clipping."""

    @abstractmethod
    def _time(self, log_snr: Tensor) -> Tensor:
        """Return the inverse of ``_log_snr``."""


class Cosine(VariancePreserving):
    """alpha = cos(pi t / 2) (arXiv 2102.09672, in the continuous form of arXiv 2301.11093)."""

    def _log_snr(self, t: Tensor) -> Tensor:
        log_snr = -2.0 * torch.log(torch.tan(t * (math.pi / 2)))
        return torch.where(t >= 1.0, -torch.inf, log_snr)  # tan(pi/2) is finite in floats

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


class Linear(VariancePreserving):
    """DDPM's linear betas (arXiv 2006.11239) in continuous time.

    alpha_t^2 = exp(-B(t)) with B(t) = beta_min t + (beta_max - beta_min) t^2 / 2.
    """

    def _log_snr(self, t: Tensor) -> Tensor:
        integral = BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2
        return -torch.log(torch.expm1(integral))

    def _time(self, log_snr: Tensor) -> Tensor:
        integral = torch.nn.functional.softplus(-log_snr)  # B = log(1 + 1 / snr)
        root = torch.sqrt(BETA_MIN**2 + 2.0 * (BETA_MAX - BETA_MIN) * integral)
        return 2.0 * integral / (BETA_MIN + root)  # stable: root - beta_min would cancel


class Flow(VariancePreserving):
    """The straight path (1 - t) x_0 + t eps of a rectified flow (arXiv 2209.03003), rescaled.

    Divided by c = ((1 - t)^2 + t^2)^1/2 it is variance-preserving, with the same log-SNR. Euler's
    method on the flow is DDIM here.
    """

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2.0 * torch.logit(t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


SCHEDULES: dict[str, Callable[[float], VariancePreserving]] = {
    "cosine": Cosine,
    "linear": Linear,
    "flow": Flow,
}


def build_schedule(
    kind: Literal["cosine", "linear", "flow"], shift: float = 0.0
) -> VariancePreserving:
    """Return the schedule of this ``kind``."""
    return SCHEDULES[kind](shift)


def resolution_shift(side: int, reference: int = 64) -> float:
    """Return 2 log(reference / side), the log-SNR shift of simple diffusion (2301.11093, eq. 4).

    Larger images hold more redundancy, so they need more noise for the same difficulty.
    """
    return 2.0 * math.log(reference / side)


def sampling_times(num_steps: int, start: float = 1.0, power: float = 1.0) -> Tensor:
    """Return the times start = t_0 > t_1 > ... > t_n = 0 of ``num_steps`` steps, float64.

    t_i = start (1 - (i / n)^(1 / power)): equal steps by default; with a larger power those in
    noise are larger.
    """
    if power == 1.0:
        return torch.linspace(start, 0.0, num_steps + 1, dtype=torch.float64)
    done = torch.linspace(0.0, 1.0, num_steps + 1, dtype=torch.float64)
    return start * (1.0 - done ** (1.0 / power))
