"""A cascade that is sampled in one way by every part of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minimagen.imagen import Imagen


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

    @property
    def settings(self) -> dict[str, Any]:
        """Return ``samplings`` as ``Imagen.sample`` takes them: by name, one value per stage."""
        own = [sampling.model_dump() for sampling in self.samplings]
        names = dict.fromkeys(name for values in own for name in values)
        return {name: [values.get(name) for values in own] for name in names}
