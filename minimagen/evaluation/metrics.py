"""How close images are to each other. Images are float [b 3 h w] in model space, [-1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor


def color_shift(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest difference of the three channels' means of every pair, in 1/255 [b]."""
    difference = a.double().mean((2, 3)) - b.double().mean((2, 3))
    return difference.abs().amax(1) * 127.5


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    share, shrink = right / total, 1 + z**2 / total
    center = (share + z**2 / (2 * total)) / shrink
    half = z * ((share * (1 - share) + z**2 / (4 * total)) / total) ** 0.5 / shrink
    return center - half, center + half


def kid(a: Tensor, b: Tensor) -> float:
    """Return the kernel inception distance of two sets of features, [n d] and [m d], n, m >= 2.

    The unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3
    (arXiv 1801.01401, section 3); around 0, sometimes below, for sets of one distribution.
    """
    a, b = a.double(), b.double()
    n, m, width = len(a), len(b), a.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / width + 1.0) ** 3

    within_a, within_b = kernel(a, a), kernel(b, b)
    same = (within_a.sum() - within_a.trace()) / (n * (n - 1))
    same = same + (within_b.sum() - within_b.trace()) / (m * (m - 1))
    return float(same - 2.0 * kernel(a, b).mean())


def kernel_distance(a: Tensor, real: Tensor) -> float:
    """Return 1,000 times the ``kid`` of features [n d] and those of real images [m d].

    Both are divided by the root mean square of the real ones: the kernel expects numbers around 1.
    """
    scale = real.double().square().mean().sqrt()
    return 1000.0 * kid(a / scale, real / scale)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance of two sets of features, [n d] and [m d], taken as Gaussians.

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (arXiv 1706.08500, eq. 6). It is biased:
    it falls with n and m, so only distances of equal numbers of images can be compared.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(cov_a @ cov_b).sqrt().real.sum()  # the trace of the matrix root
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + cov_a.trace() + cov_b.trace() - 2.0 * root)


def grain(images: Tensor, window: int = 5) -> Tensor:
    """Return the noise in the flattest parts of every image, in 1/255 [b].

    It is the standard deviation inside a window of ``window`` x ``window`` pixels, averaged over
    the channels, that a quarter of all windows do not exceed: about 0 for drawings, whose areas are
    flat, and the standard deviation itself for white noise.
    """
    x = images.double() * 127.5
    mean, square = (F.avg_pool2d(each, window, 1) for each in (x, x.square()))
    deviation = (square - mean.square()).clamp(min=0.0).sqrt().mean(1)
    return deviation.flatten(1).quantile(0.25, dim=1)
