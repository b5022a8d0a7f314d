"""The four things a network can predict, and the only home of the formulas between them.

    x_t = alpha x_0 + sigma eps          v = alpha eps - sigma x_0      (arXiv 2202.00512, app. D)
                                         u = eps - x_0                  (arXiv 2209.03003, eq. 1)

Given x_t, each of them determines the others; with u, (alpha + sigma) x_0 = x_t - sigma u. Levels
must be shaped to multiply the images, see ``Level.like``.
"""

from torch import Tensor

from minimagen.config import Prediction
from minimagen.diffusion.schedule import Level


def add_noise(x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """Return x_t = alpha x_0 + sigma eps (DDPM, eq. 4)."""
    return level.alpha * x_0 + level.sigma * eps


def target(kind: Prediction, x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """Return what a network of this ``kind`` should output."""
    if kind == "x_0":
        return x_0
    if kind == "eps":
        return eps
    if kind == "u":
        return eps - x_0
    return level.alpha * eps - level.sigma * x_0


def to_x_0(kind: Prediction, value: Tensor, x_t: Tensor, level: Level) -> Tensor:
    """Return x_0 from a ``value`` of this ``kind``."""
    if kind == "x_0":
        return value
    if kind == "eps":
        return (x_t - level.sigma * value) / level.alpha
    if kind == "u":
        return (x_t - level.sigma * value) / (level.alpha + level.sigma)
    return level.alpha * x_t - level.sigma * value


def to_eps(kind: Prediction, value: Tensor, x_t: Tensor, level: Level) -> Tensor:
    """Return eps from a ``value`` of this ``kind``."""
    if kind == "eps":
        return value
    if kind == "x_0":
        return (x_t - level.alpha * value) / level.sigma
    if kind == "u":
        return (x_t + level.alpha * value) / (level.alpha + level.sigma)
    return level.sigma * x_t + level.alpha * value


def to_v(kind: Prediction, value: Tensor, x_t: Tensor, level: Level) -> Tensor:
    """Return v from a ``value`` of this ``kind``."""
    if kind == "v":
        return value
    if kind == "eps":
        return (value - level.sigma * x_t) / level.alpha
    if kind == "u":
        return ((level.alpha - level.sigma) * x_t + value) / (level.alpha + level.sigma)
    return (level.alpha * x_t - value) / level.sigma
