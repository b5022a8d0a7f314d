"""Noise-conditioning augmentation of the low-resolution picture (Imagen, section 2.5).

The same function in training and in sampling, always on pictures in model space: peers that noise
the picture before they normalise it in one path and after in the other shift its colours.
"""

from torch import Tensor

from minimagen.diffusion.prediction import add_noise
from minimagen.diffusion.schedule import Schedule, noise_level


def augment(low_res: Tensor, aug_level: Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """Return alpha low_res + sigma noise at the times ``aug_level``.

    Args:
        low_res: Model-space pictures at their own low resolution, [b c h w].
        aug_level: Times in [0, 1], [b]; 0 leaves the picture as it is (to 5e-5).
        noise: Standard normal, like ``low_res``.
        schedule: The variance-preserving schedule that gives the level its meaning.
    """
    return add_noise(low_res, noise, noise_level(schedule.log_snr(aug_level).to(low_res.dtype)))
