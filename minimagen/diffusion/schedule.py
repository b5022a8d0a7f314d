"""Noise schedules of the continuous-time, variance-preserving process.

x_t = alpha_t x_0 + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1,   t in [0, 1], t = 1 is noise,
log_snr = log(alpha_t^2 / sigma_t^2), falling with t, clipped to [-20, 20].
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LOG_SNR_LIMIT = 20.0
BETA_MIN, BETA_MAX = 0.1, 20.0  # DDPM's 1e-4 ... 0.02 over 1000 steps, per unit of time


class NoiseLevel(NamedTuple):
    """alpha_t and sigma_t, shaped to multiply pictures [b c h w]."""

    alpha: Tensor
    sigma: Tensor


def noise_level(log_snr: Tensor, ndim: int = 4) -> NoiseLevel:
    """Return alpha and sigma of ``log_snr`` [b], shaped [b 1 ... 1] with ``ndim`` axes."""
    log_snr = log_snr.reshape(-1, *[1] * (ndim - 1))
    return NoiseLevel(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())


def resolution_shift(side: int, reference: int = 64) -> float:
    """Return 2 log(reference / side), the log-SNR shift of simple diffusion (2301.11093, eq. 4).

    Larger pictures hold more redundancy, so they need more noise for the same difficulty.
    """
    return 2.0 * math.log(reference / side)


class Schedule:
    """t -> log_snr and back.

    Args:
        kind: ``cosine`` (Nichol & Dhariwal, arXiv 2102.09672, in the continuous form of simple
            diffusion) or ``linear`` (the linear betas of DDPM, arXiv 2006.11239, in continuous
            time: alpha_t^2 = exp(-B(t)), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2).
        shift: Added to the log-SNR at every time; see ``resolution_shift``.
    """

    def __init__(self, kind: Literal["cosine", "linear"] = "cosine", shift: float = 0.0) -> None:
        self.kind = kind
        self.shift = shift

    def log_snr(self, t: Tensor) -> Tensor:
        """Return the log signal-to-noise ratio at times ``t`` in [0, 1], any shape."""
        if self.kind == "cosine":  # alpha = cos(pi t / 2)
            log_snr = -2.0 * torch.log(torch.tan(t * (math.pi / 2)))
            log_snr = torch.where(t >= 1.0, -torch.inf, log_snr)  # tan(pi/2) is finite in floats
        else:
            log_snr = -torch.log(torch.expm1(self._integrated_beta(t)))
        return (log_snr + self.shift).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)

    def time(self, log_snr: Tensor) -> Tensor:
        """Return t with ``log_snr(t)`` = the given one: the exact inverse inside the clipping."""
        log_snr = log_snr - self.shift
        if self.kind == "cosine":
            return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)
        integral = torch.nn.functional.softplus(-log_snr)  # B = log(1 + 1 / snr)
        slope = BETA_MAX - BETA_MIN
        root = torch.sqrt(BETA_MIN**2 + 2.0 * slope * integral)
        return 2.0 * integral / (BETA_MIN + root)  # the stable form of (root - beta_min) / slope

    @staticmethod
    def _integrated_beta(t: Tensor) -> Tensor:
        return BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2


def sampling_times(num_steps: int) -> Tensor:
    """Return the times 1 = t_0 > t_1 > ... > t_n = 0 of ``num_steps`` equal steps, float64."""
    return torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)
