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
FINEST = 255  # most values of a number: pixels have no finer ones
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
        """Return what ``codes`` of a codebook of ``count`` say, int64 [b 12].

        A code that no color has, which a GPT may still draw, counts as the largest one.
        """
        zero = code_of_zero(count)
        numbers = codes.clamp(max=2 * zero).float() / zero - 1.0
        return cls(numbers[:, :3], numbers[:, 3:].unflatten(1, (3, 3)).mT)

    def codes(self, count: int) -> Tensor:
        """Return the nearest codes, int64 [b 12]: values from -1 to 1, 0 among them.

        Args:
            count: Size of the codebook, at least 3.
        """
        zero = code_of_zero(count)
        numbers = torch.cat([self.mean, self.axes.mT.flatten(1)], dim=1)
        return (numbers.clamp(-1.0, 1.0) * zero).round().long() + zero

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


NOTHING = Colors(torch.zeros(0, 3), torch.zeros(0, 3, 3))
"""Where colors have no codes of their own."""


class ColorCodes:
    """Codes of an image's colors in rows of their own, in front of its other codes.

    Args:
        count: Size of the codebook.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def rows(self, width: int) -> int:
        """Return how many rows of ``width`` codes they take."""
        return -(-NUMBERS // width)

    def separate(self, images: Tensor) -> tuple[Tensor, Colors]:
        """Return images without their colors, and these, as their codes say: both float32."""
        with exactly(images.device):
            exact = in_float32(images)
            colors = Colors.from_codes(Colors.of(exact).codes(self.count), self.count)
            return colors.removed(exact), colors

    def combine(self, images: Tensor, colors: Colors) -> Tensor:
        """Return images in their colors, float32: the inverse of ``separate``, about."""
        with exactly(images.device):
            return colors.restored(in_float32(images))

    def prepend(self, codes: Tensor, colors: Colors) -> Tensor:
        """Return codes [b rows columns] behind those of colors, 0 where these leave room."""
        width = codes.shape[2]
        rows = codes.new_zeros(len(codes), self.rows(width), width)
        rows.flatten(1)[:, :NUMBERS] = colors.codes(self.count)
        return torch.cat([rows, codes], dim=1)

    def split(self, codes: Tensor) -> tuple[Tensor, Colors]:
        """Return the other codes, and the colors: the inverse of ``prepend``."""
        colors = Colors.from_codes(codes.flatten(1)[:, :NUMBERS], self.count)
        return codes[:, self.rows(codes.shape[2]) :], colors

    def gray(self, device: torch.device) -> Colors:
        """Return the colors of one image that is gray all over."""
        return Colors.of(torch.zeros(1, 3, 1, 1, device=device))


class NoColorCodes:
    """All codes are of the image as it is; see ``ColorCodes``."""

    def rows(self, width: int) -> int:
        """Return 0."""
        return 0

    def separate(self, images: Tensor) -> tuple[Tensor, Colors]:
        """Return the images."""
        return images, NOTHING

    def combine(self, images: Tensor, colors: Colors) -> Tensor:
        """Return the images."""
        return images

    def prepend(self, codes: Tensor, colors: Colors) -> Tensor:
        """Return the codes."""
        return codes

    def split(self, codes: Tensor) -> tuple[Tensor, Colors]:
        """Return the codes."""
        return codes, NOTHING

    def gray(self, device: torch.device) -> Colors:
        """Return nothing."""
        return NOTHING


def code_of_zero(count: int) -> int:
    """Return the code of 0 in a codebook of ``count``; the largest one that is used is its double.

    Of an even number of codes the last one is not used: 0 is in the middle.
    """
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
