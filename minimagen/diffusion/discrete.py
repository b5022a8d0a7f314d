"""The noise levels of a model that knows N numbered times, as a schedule of continuous time.

Number k = 0 ... N - 1 is the time t = (k + 1) / N, so that t = 1 is the noisiest level and t = 0
the image. Between two numbers the log-SNR is interpolated linearly; below the first one it stays:
the model knows nothing less noisy.
"""

import math

import torch
from torch import Tensor

from minimagen.config import BetasConfig
from minimagen.config.diffusers import MULTISTEP, Spacing
from minimagen.device import to_device, widest_float
from minimagen.diffusion.schedule import Level, variance_preserving

LEAST_LOG_SNR = -40.0  # of a time that is noise alone
LARGEST_BETA = 0.999  # of the cosine


def betas_of(config: BetasConfig) -> Tensor:
    """Return beta of every number, [N], in float32 as diffusers computes them."""
    count, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas is not None:
        return torch.tensor(config.trained_betas, dtype=torch.float32)
    if config.beta_schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if config.beta_schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    angles = (torch.arange(count + 1, dtype=torch.float64) / count + 0.008) / 1.008 * (math.pi / 2)
    alpha_bar = angles.cos() ** 2
    return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=LARGEST_BETA).float()


def alphas_cumprod_of(config: BetasConfig) -> Tensor:
    """Return alpha^2 of every number, float64 [N]; with zero terminal SNR the last one is 0.

    The product is that of float32, as in training. Algorithm 1 of arXiv 2305.08891 moves alpha to
    end at 0 and stretches it to begin where it did.
    """
    squares = torch.cumprod(1.0 - betas_of(config), 0).double()
    if not config.rescale_betas_zero_snr:
        return squares
    alpha = squares.sqrt()
    return ((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))) ** 2


class Discrete:
    """A schedule that interpolates a table of noise levels."""

    def __init__(self, config: BetasConfig) -> None:
        self.count = config.num_train_timesteps
        self._table = torch.logit(alphas_cumprod_of(config)).clamp(min=LEAST_LOG_SNR)

    def level(self, t: Tensor) -> Level:
        """Return the noise level at times ``t`` in [0, 1], of any shape."""
        return variance_preserving(self.log_snr(self.index(t)).to(t.dtype))

    def index(self, t: Tensor) -> Tensor:
        """Return the number at times ``t``, float64 in [0, N - 1], whole or not."""
        return (_wide(t) * self.count - 1.0).clamp(0.0, self.count - 1.0)

    def time(self, index: Tensor) -> Tensor:
        """Return the time of a number, float64."""
        return (_wide(index) + 1.0) / self.count

    def log_snr(self, index: Tensor) -> Tensor:
        """Return the log-SNR at numbers in [0, N - 1], whole or not, float64."""
        table = self._like(_wide(index))
        below = index.long().clamp(max=self.count - 2)
        return torch.lerp(table[below], table[below + 1], _wide(index) - below)

    def _like(self, value: Tensor) -> Tensor:
        """Return the table where a value is, without waiting for the copy."""
        return to_device(self._table, value.device, value.dtype)

    def index_of(self, log_snr: Tensor) -> Tensor:
        """Return the number with this log-SNR, float64: the inverse of ``log_snr``."""
        value = _wide(log_snr)
        table = self._like(value)
        above = torch.searchsorted(-table, -value.contiguous()).clamp(1, self.count - 1)
        share = (value - table[above - 1]) / (table[above] - table[above - 1])
        return above - 1 + share.clamp(0.0, 1.0)


def _wide(x: Tensor) -> Tensor:
    return x.to(widest_float(x.device))


def timesteps_of(spacing: Spacing, steps: int, count: int, offset: int, sampler: str) -> Tensor:
    """Return the numbers of ``steps`` steps, falling, float64 [steps] (arXiv 2305.08891, table 2).

    Args:
        spacing: ``linspace`` has both ends, ``leading`` the first number, ``trailing`` the last.
        steps: At most ``count``, less by one where the end of the last step is among them.
        count: N.
        offset: Added to those of ``leading``.
        sampler: DPM-Solver++ counts the end of its last step among them, except with ``trailing``.
    """
    several = steps + (sampler in MULTISTEP)
    i = torch.arange(steps, dtype=torch.float64)
    if spacing == "linspace":
        every = torch.linspace(count - 1.0, 0.0, max(2, several), dtype=torch.float64)
        return every[:steps].round()
    if spacing == "trailing":
        return (count - i * (count / steps)).round() - 1.0
    return ((several - 1.0 - i) * (count // several) + offset).clamp(max=count - 1.0)
