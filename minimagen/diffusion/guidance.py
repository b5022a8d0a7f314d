"""Wrappers of a denoiser: classifier-free guidance, and the thresholding that it needs."""

from collections import Counter, defaultdict

import torch
from torch import Tensor

from minimagen.config import Thresholding
from minimagen.device import to_device
from minimagen.diffusion.samplers import Denoiser

ROUNDING = 1e-9  # of times: 7 of 10 steps end at 0.30000000000000004
MARGIN = 0.1  # beyond [-1, 1], a twentieth of the range: white images are exactly at its end


def guided(denoise: Denoiser, guidance_scale: float, interval: tuple[float, float]) -> Denoiser:
    """Return the denoiser uncond + w (cond - uncond) (Imagen, eq. 2 of arXiv 2205.11487).

    Args:
        denoise: Takes b rows with their captions, or 2 b rows: the same b, then b that it has to
            denoise without captions. Both halves run as one batch.
        guidance_scale: w; 1 changes nothing.
        interval: Times between which guidance acts; at others w is 1 (arXiv 2404.07724).
    """

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        scale = guidance_at(t, guidance_scale, interval)
        if bool((scale == 1.0).all()):
            return denoise(x_t, t)
        cond, uncond = denoise(torch.cat([x_t, x_t]), torch.cat([t, t])).chunk(2)
        weight = to_device(scale, cond.device, cond.dtype).reshape(-1, *[1] * (cond.ndim - 1))
        return torch.lerp(uncond, cond, weight)

    return guide


class Overshoot:
    """Measures which share of the values of estimates lies far outside [-1, 1], on their device."""

    def __init__(self) -> None:
        self._totals: dict[float, Tensor | float] = defaultdict(float)  # by the scale
        self._calls = Counter[float]()

    def measured(self, denoise: Denoiser, guidance_scale: float) -> Denoiser:
        """Return the denoiser, its estimates [b c h w] counted as those of this scale."""

        def measure(x_t: Tensor, t: Tensor) -> Tensor:
            x_0_hat = denoise(x_t, t)
            share = (x_0_hat.abs() > 1.0 + MARGIN).float().mean()
            before = torch.as_tensor(self._totals[guidance_scale], device=share.device)
            self._totals[guidance_scale] = before + share
            self._calls[guidance_scale] += 1
            return x_0_hat

        return measure

    def take(self) -> tuple[float, float]:
        """Return the share, in [0, 1], of the estimates since the last call, and the scale.

        Of several scales it is the one with the largest share; without any (0, 1).
        """
        means = [(float(total) / self._calls[w], w) for w, total in self._totals.items()]
        self._totals.clear()
        self._calls.clear()
        return max(means, default=(0.0, 1.0))


def guidance_at(t: Tensor, guidance_scale: float, interval: tuple[float, float]) -> Tensor:
    """Return w at times ``t`` [b]: 1, which is off, outside the interval (arXiv 2404.07724)."""
    inside = (interval[0] - ROUNDING <= t) & (t <= interval[1] + ROUNDING)
    return torch.where(inside, guidance_scale, 1.0)


def thresholded(denoise: Denoiser, kind: Thresholding, percentile: float = 0.995) -> Denoiser:
    """Return the denoiser with its estimates brought back into [-1, 1], see ``threshold``."""
    return lambda x_t, t: threshold(denoise(x_t, t), kind, percentile)


def threshold(x_0_hat: Tensor, kind: Thresholding, percentile: float = 0.995) -> Tensor:
    """Bring an estimate of x_0 back into [-1, 1] (Imagen, section 2.3).

    Args:
        x_0_hat: [b c h w], model space.
        kind: ``static`` clamps. ``dynamic`` takes per sample s = the ``percentile`` of |x_0_hat|,
            at least 1, clamps to [-s, s] and divides by s.
        percentile: A fraction in (0, 1].

    Raises:
        ValueError: If the percentile is not a fraction.
    """
    if kind == "none":
        return x_0_hat
    if kind == "static":
        return x_0_hat.clamp(-1.0, 1.0)
    if not 0.0 < percentile <= 1.0:
        raise ValueError(f"percentile must be a fraction in (0, 1], given {percentile}")
    magnitudes = x_0_hat.detach().abs().flatten(1)
    # The largest ones instead of quantile: no limit of 16 million elements, and not all are sorted.
    rank = max(1, round(percentile * magnitudes.shape[1]))
    largest = magnitudes.topk(magnitudes.shape[1] - rank + 1, dim=1, sorted=False).values
    limit = largest.amin(1).clamp(min=1.0)
    limit = limit.reshape(-1, *[1] * (x_0_hat.ndim - 1))
    return x_0_hat.clamp(-limit, limit) / limit
