"""A cascade that is sampled in one way by every part of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minimagen.between import BetweenCaptions, evenly
from minimagen.imagen import Imagen
from minimagen.images import to_pil


@dataclass(frozen=True)
class Sampler:
    """Samples one cascade in one way, so that every part of an evaluation does.

    Attributes:
        imagen: The cascade.
        samplings: Settings of each stage.
        seed: Of the first image; image i has ``seed + i``.
        options: Those of ``Imagen.sample_batches``.
    """

    imagen: Imagen
    samplings: list[Any]
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, captions: Sequence[str]) -> list[Tensor]:
        """Return every stage's images of captions, float32 [n 3 h w] in [-1, 1]."""
        seeds = range(self.seed, self.seed + len(captions))
        batches = self.imagen.sample_batches(captions, self.samplings, seeds, **self.options)
        return [torch.cat(stage) for stage in zip(*batches, strict=True)]

    def between(self, first: str, last: str, count: int) -> list[Image.Image]:
        """Return images from one caption to another, of even embeddings and the same noise."""
        encoder = BetweenCaptions(self.imagen.text_encoder, first, last)
        captions = [*map(encoder.caption, evenly(count))]
        batches = self.imagen.sample_batches(
            captions, self.samplings, [self.seed] * count, encoder=encoder, **self.options
        )
        return to_pil(torch.cat([stages[-1] for stages in batches]))
