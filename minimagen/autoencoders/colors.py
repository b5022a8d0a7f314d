"""The colors of an image as a few codes, and the image without them.

The pixels of an image are a cloud of points in the space of colors, with a mean and three principal
axes. In units of these axes a red seven on blue is the same image as a white one on black, so that
codes for the rest do not depend on color: what is learned of shapes in one pair of colors holds for
all pairs. (Whitening by principal components, for each image.)
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from minimagen.device import exactly, widest_float
from minimagen.images import in_float32

NUMBERS = 12
"""Of the mean and the axes; each is a code of its own."""
LEAST_LENGTH = 0.02  # of an axis along which colors differ at all: 2.5/255
UNIT = 2.0  # standard deviations that are 1 in an image without colors
FINEST = 255  # values of a number: more than pixels have say nothing
LIMIT = 2.0  # such units: what is farther out is cut
SWEEPS = 6  # of Jacobi's rotations: four leave nothing in float64
PAIRS = ((0, 1), (0, 2), (1, 2))


class Colors(NamedTuple):
    """The mean and the principal axes of the colors of each image.

    Attributes:
        mean: [b 3].
        axes: Directions as columns, as long as the standard deviation along them, [b 3 3]. The
            longest comes first; the side on which colors lie farther from the mean is positive.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Self:
        """Return those of images [b 3 h w] in model space, float32 or float64."""
        pixels = images.flatten(2)
        mean = pixels.mean(2, keepdim=True)
        around = pixels - mean
        covariance = around @ around.mT / pixels.shape[2]
        variances, directions = principal(covariance.to(widest_float(images.device)))
        lengths, directions = variances.clamp(min=0.0).sqrt().to(images), directions.to(images)
        skewed = ((directions.mT @ around) ** 3).mean(2)
        lengths = torch.where(skewed < 0, -lengths, lengths)
        return cls(mean[..., 0], directions * lengths[:, None])

    @classmethod
    def from_codes(cls, codes: Tensor, count: int) -> Self:
        """Return what ``codes`` of ``count`` values each say, int64 [b 12]."""
        most = largest(count)
        numbers = codes.float() / most - 1.0
        return cls(numbers[:, :3], numbers[:, 3:].unflatten(1, (3, 3)).mT)

    def codes(self, count: int) -> Tensor:
        """Return the nearest codes, int64 [b 12]: values from -1 to 1, 0 among them.

        Args:
            count: How many values there may be; at least 3.
        """
        most = largest(count)
        numbers = torch.cat([self.mean, self.axes.mT.flatten(1)], dim=1)
        return (numbers.clamp(-1.0, 1.0) * most).round().long() + most

    def removed(self, images: Tensor) -> Tensor:
        """Return images in units of their axes, within [-2, 2]; [b 3 h w]."""
        squares = (self.axes**2).sum(1) + LEAST_LENGTH**2
        along = self.axes.mT @ (images.flatten(2) - self.mean[..., None])
        return (along / (UNIT * squares[..., None])).clamp(-LIMIT, LIMIT).view_as(images)

    def restored(self, images: Tensor) -> Tensor:
        """Return images in their colors, [b 3 h w]: the inverse of ``removed``, about.

        What was cut is lost, and axes that went through codes are not quite orthogonal.
        """
        return (self.axes @ (UNIT * images.flatten(2)) + self.mean[..., None]).view_as(images)


class ColorCodes:
    """Codes of an image's colors in rows of their own, above its other codes.

    Args:
        count: How many codes there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def rows(self, width: int) -> int:
        """Return how many rows of ``width`` codes they take."""
        return -(-NUMBERS // width)

    def apart(self, images: Tensor) -> tuple[Tensor, Colors | None]:
        """Return images without their colors, and these, as their codes say: both float32."""
        with exactly(images.device):
            exact = in_float32(images)
            colors = Colors.from_codes(Colors.of(exact).codes(self.count), self.count)
            return colors.removed(exact), colors

    def together(self, images: Tensor, colors: Colors | None) -> Tensor:
        """Return images in their colors, float32: the inverse of ``apart``, about."""
        assert colors is not None
        with exactly(images.device):
            return colors.restored(in_float32(images))

    def above(self, codes: Tensor, colors: Colors | None) -> Tensor:
        """Return codes [b rows columns] with those of colors above them, 0 where these end."""
        assert colors is not None
        width = codes.shape[2]
        rows = codes.new_zeros(len(codes), self.rows(width), width)
        rows.flatten(1)[:, :NUMBERS] = colors.codes(self.count)
        return torch.cat([rows, codes], dim=1)

    def split(self, codes: Tensor) -> tuple[Tensor, Colors | None]:
        """Return the codes below, and the colors: the inverse of ``above``."""
        colors = Colors.from_codes(codes.flatten(1)[:, :NUMBERS], self.count)
        return codes[:, self.rows(codes.shape[2]) :], colors

    def of_gray(self, device: torch.device) -> Colors | None:
        """Return the colors of one image that is gray all over."""
        return Colors.of(torch.zeros(1, 3, 1, 1, device=device))


class NoColorCodes(ColorCodes):
    """All codes are of the image as it is."""

    def __init__(self) -> None:
        super().__init__(0)

    def rows(self, width: int) -> int:
        """Return 0."""
        return 0

    def apart(self, images: Tensor) -> tuple[Tensor, Colors | None]:
        """Return the images."""
        return images, None

    def together(self, images: Tensor, colors: Colors | None) -> Tensor:
        """Return the images."""
        return images

    def above(self, codes: Tensor, colors: Colors | None) -> Tensor:
        """Return the codes."""
        return codes

    def split(self, codes: Tensor) -> tuple[Tensor, Colors | None]:
        """Return the codes."""
        return codes, None

    def of_gray(self, device: torch.device) -> Colors | None:
        """Return None."""
        return None


def largest(count: int) -> int:
    """Return the code of 1, twice that of 0; there are as many values as ``count`` allows."""
    return (min(count, FINEST) - 1) // 2


def principal(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues [b 3], the largest first, and eigenvectors as columns of [b 3 3].

    By Jacobi's rotations: each makes one element of the symmetric matrices 0. A GPU does them
    without the host, which ``torch.linalg.eigh`` waits for, and Apple's have no such function.
    """
    vectors = torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand_as(matrices)
    for p, q in PAIRS * SWEEPS:
        angle = torch.atan2(2 * matrices[:, p, q], matrices[:, q, q] - matrices[:, p, p]) / 2
        turn = torch.eye(3, dtype=matrices.dtype, device=matrices.device).repeat(len(angle), 1, 1)
        turn[:, p, p] = turn[:, q, q] = angle.cos()
        turn[:, p, q], turn[:, q, p] = angle.sin(), -angle.sin()
        matrices, vectors = turn.mT @ matrices @ turn, vectors @ turn
    values, order = matrices.diagonal(dim1=1, dim2=2).sort(dim=1, descending=True)
    return values, vectors.gather(2, order[:, None].expand_as(vectors))
