"""An image that is given and edited: what of it a stage begins with, and what it keeps."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minimagen.images import resize_clamped


@dataclass(frozen=True)
class Given:
    """Images to edit, at the size of a stage.

    Attributes:
        images: [b 3 h w], model space.
        strength: The time t in (0, 1] that they are noised to: 1 keeps nothing of them.
        mask: [b 1 h w], 1 where they are sampled anew and 0 where they are kept; None: all anew.
        resample: How often each step is taken, noised back in between (RePaint, arXiv 2201.09865,
            section 4.2): what is new then fits what is kept.
    """

    images: Tensor
    strength: float = 1.0
    mask: Tensor | None = None
    resample: int = 1

    def at(self, size: tuple[int, int]) -> "Given":
        """Return the same at another size; a pixel is kept where all that it covers is kept."""
        mask = None if self.mask is None else shrunk(self.mask, size)
        return Given(resize_clamped(self.images, size), self.strength, mask, self.resample)

    def to(self, device: torch.device) -> "Given":
        """Return the same on ``device``."""
        mask = None if self.mask is None else self.mask.to(device)
        return Given(self.images.to(device), self.strength, mask, self.resample)

    def pasted(self, images: Tensor) -> Tensor:
        """Return ``images`` with the given ones where those are kept, to the bit."""
        if self.mask is None:
            return images
        return torch.where(self.mask.bool(), images, self.images.to(images))


def shrunk(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a mask at ``size``: 1 where any of the pixels that it covers is 1."""
    return F.adaptive_max_pool2d(mask.float(), size)
