"""Images changed a little at random, so that few of them teach more."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minimagen.device import exactly, to_device
from minimagen.draws import Draws

MOVE, TURN, SCALE = 0.12, 0.25, 0.25  # of half the side, radians, log; at strength 1
GAIN, OFFSET = 0.4, 0.3  # of each color, in model space; at strength 1
GRAY = 0.3  # share of images without color, at strength 1


def jittered(images: Tensor, draws: Draws, strength: float) -> Tensor:
    """Return images moved, turned, scaled and recolored, each row by numbers of its own.

    Args:
        images: [b 3 h w] in model space.
        draws: Of the rows.
        strength: 0 changes nothing.
    """
    if strength == 0.0:
        return images
    names = ("x", "y", "turn", "scale", "red", "green", "blue", "offset", "gray")
    columns = [draws.uniform(f"jitter {name}") for name in names]
    numbers = to_device(torch.stack(columns, dim=1), images.device, images.dtype) * 2.0 - 1.0
    x, y, turn, scale = (numbers[:, i] * strength for i in range(4))
    zoom, turn = torch.exp(SCALE * scale), TURN * turn
    rows = [
        torch.stack([zoom * turn.cos(), -zoom * turn.sin(), MOVE * x], dim=1),
        torch.stack([zoom * turn.sin(), zoom * turn.cos(), MOVE * y], dim=1),
    ]
    with exactly(images.device):  # bfloat16 would move images by a fifth of a pixel
        grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain = 1.0 + GAIN * strength * numbers[:, 4:7, None, None]
    offset = OFFSET * strength * numbers[:, 7, None, None, None]
    gray = (numbers[:, 8] > 1.0 - 2.0 * GRAY * strength)[:, None, None, None]
    colored = moved * gain + offset
    return torch.where(gray, colored.mean(1, keepdim=True), colored).clamp(-1.0, 1.0)
