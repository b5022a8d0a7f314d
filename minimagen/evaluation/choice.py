"""The best of several images of a caption, as a CLIP sees them (DALL-E, arXiv 2102.12092, 2.6)."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from minimagen.errors import UserError
from minimagen.evaluation.clip import caption_vectors, vectors_of
from minimagen.imagen import Imagen
from minimagen.text.build import load_clip
from minimagen.text.clip import Clip
from minimagen.text.clip_encoder import ClipEncoder


class Choice:
    """Takes images one by one; says of each group which one is nearest to its caption.

    Args:
        count: Images of a group.
        directory: Training directory of the CLIP; None where there is nothing to choose.
        imagen: What generates the images.
        device: Where the CLIP computes.

    Attributes:
        seen: Images so far.

    Raises:
        UserError: The CLIP is the one that conditions the images: it would judge itself.
    """

    def __init__(
        self, count: int, directory: Path | None, imagen: Imagen, device: torch.device
    ) -> None:
        self.seen, self._count = 0, count
        self._clip = None if directory is None else independent_clip(directory, imagen).to(device)
        self._group: list[Image.Image] = []

    def add(self, caption: str, image: Image.Image) -> tuple[int, Image.Image] | None:
        """Take an image; where it ends its group, return number and image of the best one."""
        self.seen += 1
        self._group.append(image)
        if len(self._group) < self._count:
            return None
        group, self._group = self._group, []
        best = 0 if self._clip is None else int(similarity(self._clip, caption, group).argmax())
        return self.seen - self._count + best, group[best]


def independent_clip(directory: Path, imagen: Imagen) -> Clip:
    """Return the CLIP of a training directory.

    Raises:
        UserError: It is the one that conditions the images: it would judge itself.
    """
    clip = load_clip(directory)
    if ClipEncoder(clip).fingerprint == imagen.text_encoder.fingerprint:
        raise UserError(
            f"{directory} has the CLIP that the images are conditioned by: it would judge itself; "
            "give another one as `clip`"
        )
    return clip


@torch.inference_mode()
def similarity(clip: Clip, caption: str, images: list[Image.Image]) -> torch.Tensor:
    """Return the cosine of a caption and each of some images, [n] on the CPU."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    batch = rearrange(torch.from_numpy(pixels), "n h w c -> n c h w")
    return vectors_of(clip, batch) @ caption_vectors(clip, [caption])[0]
