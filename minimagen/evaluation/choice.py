"""How near images are to their caption, as a CLIP sees them that had no part in them."""

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
from minimagen.text.clip_encoder import fingerprint_as


def independent_clip(directory: Path, imagen: Imagen) -> Clip:
    """Return the CLIP of a training directory.

    Raises:
        UserError: It is the one that conditions the images: it would judge itself.
    """
    clip, own = load_clip(directory), imagen.text_encoder.fingerprint
    if own in (fingerprint_as(clip, pooled_only) for pooled_only in (False, True)):
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
