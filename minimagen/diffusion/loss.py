"""The training loss: squared error in one space, weighted over noise levels; and its times.

For a fixed x_t the errors of the three predictions differ by factors that depend on the noise
level alone (arXiv 2202.00512, section 4):

    |eps error|^2 = snr |x_0 error|^2            |v error|^2 = (1 + snr) |x_0 error|^2

so a loss in any space is the network's own squared error times a weight.
"""

import math

import torch
from torch import Tensor

from minimagen.config import LossWeight, Prediction


def training_times(uniform: Tensor, shift: float) -> Tensor:
    """Return training times from ``uniform`` numbers in [0, 1]: s u / (1 + (s - 1) u).

    The map of arXiv 2403.03206 (eq. 23): t / (1 - t) is multiplied by s. 1 changes nothing; above
    1 more times are near noise, with 3 half of them above 0.75.
    """
    return shift * uniform / (1.0 + (shift - 1.0) * uniform)


def _log_x_0_factor(space: Prediction, log_snr: Tensor) -> Tensor:
    """Return log c with |error in space|^2 = c |x_0 error|^2."""
    if space == "x_0":
        return torch.zeros_like(log_snr)
    if space == "eps":
        return log_snr
    return torch.nn.functional.softplus(log_snr)


def space_weight(output: Prediction, space: Prediction, log_snr: Tensor) -> Tensor:
    """Return w with |error in ``space``|^2 = w |error of the ``output``|^2, like ``log_snr``."""
    return torch.exp(_log_x_0_factor(space, log_snr) - _log_x_0_factor(output, log_snr))


def loss_weight(
    output: Prediction,
    space: Prediction,
    weight: LossWeight,
    log_snr: Tensor,
    min_snr_gamma: float = 5.0,
) -> Tensor:
    """Return the weight of the network output's squared error at each ``log_snr``.

    ``simple`` weighs every noise level alike in ``space``. ``min_snr`` weighs the x_0 error by
    min(snr, gamma) (arXiv 2303.09556, eq. 7), whatever the output and the space. ``clamped_snr``
    does so too, but with at least 1, as the truncated SNR of arXiv 2202.00512 (section 4): a
    network that outputs x_0 must also learn what to estimate from pure noise, where the SNR is 0.
    """
    if weight == "simple":
        return space_weight(output, space, log_snr)
    log_weight = log_snr.clamp(max=math.log(min_snr_gamma))
    if weight == "clamped_snr":
        log_weight = log_weight.clamp(min=0.0)
    return torch.exp(log_weight - _log_x_0_factor(output, log_snr))


def per_example_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of every example, float32 [b]."""
    return (output.float() - target.float()).square().flatten(1).mean(1)
