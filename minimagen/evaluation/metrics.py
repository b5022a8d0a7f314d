"""How close images are to each other. Images are float [b 3 h w] in model space, [-1, 1]."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minimagen.draws import generator

RESAMPLES = 30  # of the bootstrap of a distance


def color_shift(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest difference of the three channels' means of every pair, in 1/255 [b]."""
    difference = a.double().mean((2, 3)) - b.double().mean((2, 3))
    return difference.abs().amax(1) * 127.5


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    share, shrink = right / total, 1 + z**2 / total
    center = (share + z**2 / (2 * total)) / shrink
    half = z * ((share * (1 - share) + z**2 / (4 * total)) / total) ** 0.5 / shrink
    return max(0.0, center - half), min(1.0, center + half)


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


def precision_recall(a: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Return precision and recall of features [n d] against those of real images [m d].

    Precision is the share of ``a`` that lies in the manifold of the real ones: nearer to one of
    them than its ``k``-th nearest real neighbor. Recall is the same with both exchanged
    (arXiv 1904.06991, eq. 1 and 2). n, m > k.
    """
    return _inside(a, real, k), _inside(real, a, k)


def _inside(a: Tensor, manifold: Tensor, k: int) -> float:
    a, manifold = a.double(), manifold.double()
    own = torch.cdist(manifold, manifold, compute_mode="donot_use_mm_for_euclid_dist")
    radius = own.kthvalue(k + 1, dim=1).values  # the first is the point itself
    between = torch.cdist(a, manifold, compute_mode="donot_use_mm_for_euclid_dist")
    return float((between <= radius).any(1).double().mean())


def ssim(a: Tensor, b: Tensor, sigma: float = 1.5) -> Tensor:
    """Return the structural similarity of every pair [b], at most 1 (Wang et al., 2004, eq. 13).

    The window is a Gaussian of 11 x 11 px; the range of the values is 2.
    """
    x = torch.arange(-5, 6, dtype=torch.float64)
    line = torch.exp(-x.square() / (2 * sigma**2))
    weight = (line / line.sum()).expand(a.shape[1], 1, 1, -1)

    def mean(images: Tensor) -> Tensor:  # along rows, then along columns
        across = F.conv2d(images, weight, groups=images.shape[1])
        return F.conv2d(across, weight.mT, groups=images.shape[1])

    a, b = a.double().cpu(), b.double().cpu()
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    cov = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    similar = similar / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similar.flatten(1).mean(1)


def bootstrap_interval(
    distance: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a distance of two sets of features.

    It is the distance plus and minus 1.96 standard deviations over resampled sets: repeated rows
    move the distances themselves, so their quantiles would be off.
    """
    draws, found = generator(seed, "bootstrap"), []
    for _ in range(RESAMPLES):
        rows = (torch.randint(len(each), (len(each),), generator=draws) for each in (a, b))
        found.append(distance(*(each[row] for each, row in zip((a, b), rows, strict=True))))
    half = 1.96 * float(torch.tensor(found, dtype=torch.float64).std())
    value = distance(a, b)
    return value - half, value + half


def mean_interval(
    values: Tensor, units: Sequence[Hashable] | None = None
) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of values [n]; None where they are of one unit only.

    It is Student's: the mean plus and minus the quantile of the t distribution times the standard
    error, which is that of a ratio of sums over units (Cochran, Sampling Techniques, 1977, eq.
    6.12): units need not have equal numbers of values.

    Args:
        values: Of each image, caption or path, in any unit of measurement [n].
        units: What each value is of [n]: values of one image count as one draw. By default each
            value is a unit.
    """
    names = list(range(len(values)) if units is None else units)
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    count = len(order)
    if count < 2:
        return None
    rows, exact = torch.tensor([order[name] for name in names]), values.cpu().double()
    mean = exact.mean()
    off = torch.zeros(count, dtype=torch.float64).index_add(0, rows, exact - mean)
    error = (off.square().sum() * count / (count - 1)).sqrt() / len(exact)
    half = t_quantile(count - 1) * float(error)
    return float(mean) - half, float(mean) + half


@lru_cache
def t_quantile(degrees: int, inside: float = 0.95) -> float:
    """Return the number that a t-distributed one is within on either side, in ``inside`` of cases.

    With t = sqrt(degrees) tan(angle) the density of the angle is cos(angle)^(degrees - 1).
    """
    angle = np.linspace(0.0, math.pi / 2, 100_001)
    density = np.cos(angle) ** (degrees - 1)
    mass = np.cumsum(density) - (density + density[0]) / 2  # the trapezoidal rule
    return math.sqrt(degrees) * math.tan(float(np.interp(inside * mass[-1], mass, angle)))


def spread(features: Tensor, captions: Sequence[str]) -> float | None:
    """Return the mean of ``spreads``; None where each caption has one image."""
    found = spreads(features, captions)
    return float(found.mean()) if len(found) else None


def spreads(features: Tensor, captions: Sequence[str]) -> Tensor:
    """Return each caption's mean distance of its features [n d], float64 [captions].

    Captions that have one image are left out.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, caption in enumerate(captions):
        rows[caption].append(row)
    groups = [group for group in rows.values() if len(group) > 1]
    means = [float(torch.pdist(features[group].double()).mean()) for group in groups]
    return torch.tensor(means, dtype=torch.float64)
