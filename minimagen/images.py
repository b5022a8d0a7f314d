"""A batch of images with the encodings of their captions, and the two spaces that images are in.

Model space is [-1, 1], float. Everywhere else images are uint8 in [0, 255].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from minimagen.config.sizes import Size, scaled
from minimagen.device import to_device


class LearnerSizes(NamedTuple):
    """The sizes of the images that a learner takes.

    Where the data's images have another size than ``full`` (aspect buckets), these scale with it.
    """

    full: Size
    """That of the data, in general: of the cascade's last stage."""
    own: Size
    low_res: Size | None = None

    def resize(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return uint8 images [b 3 h w] at the learner's own size, and at the low-resolution one.

        What has the size already stays uint8; the rest is resized in model space, float32.
        """
        low_res = None if self.low_res is None else self._at(images, self.low_res)
        return self._at(images, self.own), low_res

    def _at(self, images: Tensor, size: Size) -> Tensor:
        wanted = scaled(size, self.full, size_of(images))
        return (
            images if wanted == size_of(images) else resize_clamped(to_model_space(images), wanted)
        )


@dataclass(frozen=True)
class Batch:
    """Images and what conditions them.

    Attributes:
        images: [b 3 h w] at the learner's own size: uint8 where that is the data's, else float32 in
            model space, resized.
        text_embeds: float [b n d], zero where ``text_mask`` is False.
        text_mask: bool [b n], True = real token.
        captions: The captions, one per row; empty where they are not needed.
        low_res: The same images at the size of the stage before, like ``images``; None where the
            learner has no such stage.
        latents: What latents or tokens of ``images`` are made of, where that is kept: [b m h w].
    """

    images: Tensor
    text_embeds: Tensor
    text_mask: Tensor
    captions: Sequence[str] = ()
    low_res: Tensor | None = None
    latents: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> "Batch":
        return self._map(lambda tensor: tensor[rows], self.captions[rows])

    def at(self, sizes: Sequence[Size], full: Size) -> "Batch":
        """Return the batch as a learner with these ``image_sizes`` takes it; see LearnerSizes."""
        images, low_res = LearnerSizes(full, *sizes).resize(self.images)
        return replace(self, images=images, low_res=low_res)

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on ``device``; from pinned memory the copy is asynchronous."""
        return self._map(lambda tensor: to_device(tensor, device), self.captions)

    def pin_memory(self) -> "Batch":
        """Return the same batch in page-locked memory, from where a GPU copies by itself."""
        return self._map(lambda tensor: tensor.pin_memory(), self.captions)

    def _map(self, change: Callable[[Tensor], Tensor], captions: Sequence[str]) -> "Batch":
        low_res = None if self.low_res is None else change(self.low_res)
        latents = None if self.latents is None else change(self.latents)
        text = change(self.text_embeds), change(self.text_mask)
        return Batch(change(self.images), *text, captions, low_res, latents)


def size_of(images: Tensor) -> Size:
    """Return (height, width) of images [... h w]."""
    return images.shape[-2], images.shape[-1]


def to_model_space(images: Tensor) -> Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1]; floats are in model space already."""
    return images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images


def in_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or as it is where it is in float64: bfloat16 is too coarse."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_uint8(images: Tensor) -> Tensor:
    """Map float [-1, 1] to uint8 [0, 255], clamped and rounded to nearest."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def resize(images: Tensor, size: Size) -> Tensor:
    """Resize float [b c h w] to ``size`` = (h, w): bicubic, antialiased when it shrinks.

    The one resize of the project: training targets, low-resolution conditions and the enlarged
    condition of super-resolution all come from here. Bicubic interpolation overshoots at edges:
    ``resize_clamped`` brings the result back to [-1, 1].
    """
    if images.shape[-2:] == torch.Size(size):
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)


def resize_clamped(images: Tensor, size: Size) -> Tensor:
    """Resize model-space images and clamp the overshoot of bicubic interpolation to [-1, 1]."""
    return resize(images, size).clamp(-1.0, 1.0)


def to_pil(images: Tensor) -> list[Image.Image]:
    """Return model-space images [b 3 h w] as Pillow images."""
    pixels = rearrange(to_uint8(images), "b c h w -> b h w c").cpu().numpy()
    return [Image.fromarray(image) for image in pixels]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of every pair, dB [b]; the peak is 2. On the host."""
    error = (a.cpu().double() - b.cpu().double()).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / error.clamp(min=1e-12))
