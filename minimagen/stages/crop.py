"""The same part of an image and of the same image made smaller."""

import torch
from torch import Tensor

from minimagen.config import Size
from minimagen.draws import Draws


def crop_together(
    large: Tensor, small: Tensor, small_size: Size, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Cut the same part out of an image and of the same image made smaller, row by row.

    Args:
        large: [b c h w]; h and w are one whole multiple of ``small``'s.
        small: [b c h' w'].
        small_size: (height, width) of the part of ``small``.
        draws: Draw the places: anywhere on the grid of ``small``'s pixels.

    Returns:
        The parts of ``large`` and of ``small``.
    """
    height, width = small_size
    tops = draws.uniform("crop_y") * (small.shape[-2] - height + 1)
    lefts = draws.uniform("crop_x") * (small.shape[-1] - width + 1)
    corners = list(zip(tops.long().tolist(), lefts.long().tolist(), strict=True))

    def cut(images: Tensor, scale: int) -> Tensor:
        boxes = [
            (
                slice(top * scale, (top + height) * scale),
                slice(left * scale, (left + width) * scale),
            )
            for top, left in corners
        ]
        return torch.stack([p[:, y, x] for p, (y, x) in zip(images, boxes, strict=True)])

    return cut(large, large.shape[-1] // small.shape[-1]), cut(small, 1)
