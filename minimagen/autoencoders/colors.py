"""The colors of an image as a few codes, and the image without them.

The pixels of an image are a cloud of points in the space of colors, with a mean and three principal
axes. In units of these axes a red seven on blue is the same image as a white one on black, so that
codes for the rest say nothing of colors: what is learned of shapes in one pair of colors holds for
all pairs. (Whitening by principal components, for each image.)
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

NUMBERS = 12
"""Of the mean and the axes; each is a code of its own."""
SHORT = 0.02  # length of an axis below which colors hardly differ along it: 2.5/255
SPAN = 2.0  # standard deviations that are 1 in an image without colors
MOST = 2.0  # such units: what is farther out is cut


class Colors(NamedTuple):
    """Of images.

    Attributes:
        mean: [b 3].
        axes: Directions as columns, as long as the standard deviation along them, [b 3 3]. The
            longest comes first; what is farther from the mean, and therefore less, is positive.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Self:
        """Return those of images, float32 [b 3 h w] in model space."""
        pixels = images.flatten(2)
        mean = pixels.mean(2, keepdim=True)
        around = pixels - mean
        covariance = (around @ around.mT / pixels.shape[2]).double()
        variances, directions = torch.linalg.eigh(covariance)  # the least first
        directions = directions.flip(2)
        skewed = ((directions.mT.float() @ around) ** 3).mean(2)
        lengths = variances.flip(1).clamp(min=0.0).sqrt() * torch.where(skewed < 0, -1.0, 1.0)
        return cls(mean[..., 0], (directions * lengths[:, None]).float())

    @classmethod
    def from_codes(cls, codes: Tensor, count: int) -> Self:
        """Return what ``codes`` of ``count`` values each say, int64 [b 12]."""
        most = (count - 1) // 2
        numbers = codes.float() / most - 1.0
        return cls(numbers[:, :3], numbers[:, 3:].unflatten(1, (3, 3)).mT)

    def codes(self, count: int) -> Tensor:
        """Return the nearest codes, int64 [b 12]: values from -1 to 1, 0 among them.

        Args:
            count: How many values there are; at least 3.
        """
        most = (count - 1) // 2
        numbers = torch.cat([self.mean, self.axes.mT.flatten(1)], dim=1)
        return (numbers.clamp(-1.0, 1.0) * most).round().long() + most

    def removed(self, images: Tensor) -> Tensor:
        """Return images in units of their axes, within [-2, 2]; [b 3 h w]."""
        squares = (self.axes**2).sum(1) + SHORT**2
        along = self.axes.mT @ (images.flatten(2) - self.mean[..., None])
        return (along / (SPAN * squares[..., None])).clamp(-MOST, MOST).view_as(images)

    def restored(self, images: Tensor) -> Tensor:
        """Return images in their colors, [b 3 h w]: the inverse of ``removed``."""
        return (self.axes @ (SPAN * images.flatten(2)) + self.mean[..., None]).view_as(images)
