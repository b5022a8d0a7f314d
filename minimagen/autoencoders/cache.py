"""Each image is encoded once: latents on disk, found by the image's pixels.

What an image is cropped to, and whether it is mirrored, is in its pixels.
"""

import hashlib
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from minimagen.errors import UserError
from minimagen.images import to_model_space
from minimagen.storage.cache import cache_folder
from minimagen.storage.tensor_store import TensorStore

BLOCK = 16  # images that are encoded together

log = logging.getLogger(__name__)


class LatentCache:
    """Encodes images, or finds what was encoded before.

    Args:
        encode: Images in model space [b 3 h w] to float32 [b m h' w'].
        fingerprint: Of what encodes: names the folder.
        device: Where it computes.
    """

    def __init__(
        self, encode: Callable[[Tensor], Tensor], fingerprint: str, device: torch.device
    ) -> None:
        self._encode, self._device = encode, device
        self._shapes: dict[torch.Size, torch.Size] = {}  # of what images of a size are encoded to
        self._store: TensorStore | None = None
        try:
            self._store = TensorStore(cache_folder(f"latents/{fingerprint}"))
        except UserError as error:
            log.warning("latents are not kept: %s", error)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return what becomes of images [b 3 h w], uint8 or in model space, rounded to bfloat16."""
        keys = [_key(image) for image in images]
        found = {} if self._store is None else self._store.find(list(dict.fromkeys(keys)))
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        size = images.shape[1:]
        for start in range(0, len(missing), BLOCK):
            some = list(missing.items())[start : start + BLOCK]
            block = self._fresh(images[[i for _, i in some]])
            self._shapes[size] = block.shape[1:]
            fresh = {
                key: row.to(torch.bfloat16).reshape(-1, 1)
                for (key, _), row in zip(some, block, strict=True)
            }
            if self._store is not None:
                self._store.add(fresh)
            found |= fresh
        rows_found = torch.stack([found[key] for key in keys]).float()
        if size not in self._shapes:
            one = to_model_space(images[:1]).to(self._device)
            self._shapes[size] = self._encode(one).shape[1:]
        latents = rows_found.reshape(len(keys), *self._shapes[size])
        return latents.pin_memory() if self._device.type == "cuda" else latents

    def _fresh(self, images: Tensor) -> Tensor:
        """Return what becomes of images that are not kept yet, on the CPU."""
        return in_blocks(self._encode, to_model_space(images).to(self._device)).cpu()


def in_blocks(change: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return what ``change`` makes of images, which is the same to the bit in any batch.

    It is given ``BLOCK`` images at a time, the last of them repeated.
    """
    parts = []
    for part in images.split(BLOCK):
        rest = part[-1:].expand(BLOCK - len(part), *part.shape[1:])
        parts.append(change(torch.cat([part, rest]))[: len(part)])
    return torch.cat(parts)


def _key(image: Tensor) -> bytes:
    content = image.contiguous().cpu().numpy()
    digest = hashlib.blake2b(repr(content.shape).encode(), digest_size=16)
    digest.update(content.tobytes())
    return digest.digest()
