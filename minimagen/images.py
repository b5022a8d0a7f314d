"""A batch of pictures with the encodings of their captions, and the two spaces pictures live in.

Model space is [-1, 1], float. Everywhere else pictures are uint8 in [0, 255].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Pictures and what conditions them.

    Attributes:
        images: uint8 [b 3 h w], at the size of the cascade's last stage.
        text_embeds: float [b n d], zero where ``text_mask`` is False.
        text_mask: bool [b n], True = real token.
    """

    images: Tensor
    text_embeds: Tensor
    text_mask: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(self.images[rows], self.text_embeds[rows], self.text_mask[rows])

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on ``device``."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.text_embeds.to(device, non_blocking=True),
            self.text_mask.to(device, non_blocking=True),
        )


def to_model_space(images: Tensor) -> Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Map float [-1, 1] to uint8 [0, 255], clamped and rounded to nearest."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize float [b c h w] to ``size`` = (h, w): bicubic, antialiased when it shrinks.

    The one resize of the project: training targets, low-resolution conditions and the
    enlargement inside a super-resolution network all come from here. The result is clamped to
    [-1, 1] when the input is in [-1, 1] only by the caller: bicubic overshoots at edges.
    """
    if images.shape[-2:] == torch.Size(size):
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)


def resize_clamped(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize model-space pictures and clamp the overshoot, so that they are pictures again."""
    return resize(images, size).clamp(-1.0, 1.0)
