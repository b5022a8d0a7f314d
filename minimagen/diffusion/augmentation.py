"""Noise-conditioning augmentation of the low-resolution image (Imagen, section 2.4).

The same function in training and in sampling, always on images in model space: noised before the
map to [-1, 1] in one path and after it in the other, colors would shift.
"""

from typing import NamedTuple

from torch import Tensor

from minimagen.config import Size
from minimagen.diffusion.prediction import add_noise
from minimagen.diffusion.schedule import Level, Schedule
from minimagen.images import resize


class NoisedImages(NamedTuple):
    """Images and how noisy they are."""

    images: Tensor
    """[b c h w]."""
    level: Level
    """Of each image, [b]."""

    def enlarged(self, size: Size) -> "NoisedImages":
        """Return the images resized to ``size``, as noisy as they were."""
        return self._replace(images=resize(self.images, size))

    def rows(self, count: int) -> "NoisedImages":
        """Return the first ``count`` of them."""
        return NoisedImages(self.images[:count], self.level.map(lambda each: each[:count]))

    def repeat(self, times: int) -> "NoisedImages":
        """Return all of them, ``times`` times one after the other."""
        level = self.level.map(lambda each: each.repeat(times))
        return NoisedImages(self.images.repeat(times, 1, 1, 1), level)


def augment(low_res: Tensor, aug_level: Tensor, noise: Tensor, schedule: Schedule) -> NoisedImages:
    """Return alpha low_res + sigma noise at the times ``aug_level``.

    Args:
        low_res: Model-space images at their own low resolution, [b c h w].
        aug_level: Times in [0, 1], [b]; 0 leaves the image as it is (to 5e-5).
        noise: Standard normal, like ``low_res``.
        schedule: Gives the times their meaning.
    """
    level = schedule.level(aug_level)
    return NoisedImages(add_noise(low_res, noise, level.like(low_res)), level)
