"""The training loss: an error in one space, weighted over noise levels; and its times.

For a fixed x_t the errors of the four predictions differ by factors that depend on the noise
level alone (arXiv 2202.00512, section 4):

    |eps error|^2 = snr |x_0 error|^2            |v error|^2 = (1 + snr) |x_0 error|^2
                                                 |u error|^2 = (1 + snr^1/2)^2 |x_0 error|^2

so a loss in any space is the network's own squared error times a weight.
"""

import math

import torch
from torch import Tensor

from minimagen.config import ErrorKind, LossWeight, Prediction, TrainingTimes


def training_times(uniform: Tensor, shift: float, times: TrainingTimes = "uniform") -> Tensor:
    """Return training times from ``uniform`` numbers in [0, 1): s t / (1 + (s - 1) t).

    ``times`` says what t is: the uniform number u itself; ``logit_normal`` sigmoid(Phi^-1(u));
    ``half_normal`` |N| / 3, at most 1, with |N| = Phi^-1((1 + u) / 2). The map
    of arXiv 2403.03206 (eq. 23): t / (1 - t) is multiplied by s. 1 changes nothing; above 1 more
    times are near noise, with 3 half of the uniform ones above 0.75.
    """
    if times == "logit_normal":
        uniform = torch.sigmoid(torch.special.ndtri(uniform))
    elif times == "half_normal":
        uniform = (torch.special.ndtri((1.0 + uniform) / 2.0) / 3.0).clamp(max=1.0)
    return shift * uniform / (1.0 + (shift - 1.0) * uniform)


def _log_x_0_factor(space: Prediction, log_snr: Tensor) -> Tensor:
    """Return log c with |error in space|^2 = c |x_0 error|^2."""
    if space == "x_0":
        return torch.zeros_like(log_snr)
    if space == "eps":
        return log_snr
    if space == "u":
        return 2.0 * torch.nn.functional.softplus(log_snr / 2.0)
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


def per_example_error(
    output: Tensor, target: Tensor, weight: Tensor, kind: ErrorKind = "l2", delta: float = 0.1
) -> Tensor:
    """Return the weighted mean error of every example, [b] in float32, or float64 as ``output``.

    Args:
        output: [b ...].
        target: Like ``output``.
        weight: Of squared errors, [b]; an absolute error gets its square root.
        kind: ``l2``, ``l1``, or ``huber``: e^2 / (2 delta) up to ``delta``, then |e| - delta / 2.
        delta: Huber's, in units of the weighted error.
    """
    dtype = torch.promote_types(output.dtype, torch.float32)
    error = output.to(dtype) - target.to(dtype)
    if kind == "l2":
        return error.square().flatten(1).mean(1) * weight
    error = error.flatten(1).abs() * weight.sqrt()[:, None]
    if kind == "huber":
        error = torch.where(error < delta, error.square() / (2.0 * delta), error - delta / 2.0)
    return error.mean(1)
