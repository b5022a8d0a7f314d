"""What distances of images are measured in: features of a network that ships, or of DINOv2."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from minimagen.errors import UserError
from minimagen.evaluation.judge import WEIGHTS, Judge
from minimagen.images import resize, to_model_space
from minimagen.storage.hub import name_and_revision

AT_ONCE = 64
GENERAL = "scenes"  # the judge whose features serve for data without one of its own


class Features(Protocol):
    """Images -> features, with a name that says which network it is."""

    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 [n 3 h w] of any size to float32 [n d] on the CPU."""
        ...


class JudgeFeatures:
    """The penultimate features of a bundled judge."""

    def __init__(self, level: str = GENERAL) -> None:
        self.name = f"the bundled judge of {level}"
        self._judge = Judge.load(level)

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 [n 3 h w] of any size to float32 [n d]."""
        return self._judge.features(images).float()


class PretrainedFeatures:
    """What a vision transformer of the `transformers` library, such as DINOv2, sees.

    Args:
        name: A folder, or a name of the hub such as ``facebook/dinov2-small``; a revision may
            follow, ``@v1``.
        device: Where it computes.

    Raises:
        UserError: There is no such model, or it cannot be read.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.name, self._device = f"{Path(name).name} (transformers)", device
        try:
            where, revision = name_and_revision(name)
            own = {"revision": revision or "main"}
            model = AutoModel.from_pretrained(where, use_safetensors=True, **own).eval()
            self._model = getattr(model, "vision_model", model).to(device)  # not CLIP's of text
            processor = AutoImageProcessor.from_pretrained(where, backend="pil", **own)
            crop = getattr(processor, "crop_size", None) or processor.size
            side = crop.get("shortest_edge")
            self._size = (crop.get("height", side), crop.get("width", side))
            self._mean = torch.tensor(processor.image_mean).view(3, 1, 1)
            self._std = torch.tensor(processor.image_std).view(3, 1, 1)
            self(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))  # an error now, not after sampling
        except (OSError, ValueError, ImportError, TypeError, RuntimeError, AttributeError) as error:
            why = " ".join(str(error).split())[:160]
            raise UserError(f"`features` {name}: {why}") from None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 [n 3 h w] of any size to float32 [n d] on the CPU."""
        return torch.cat([self._part(part) for part in images.split(AT_ONCE)])

    def _part(self, images: Tensor) -> Tensor:
        unit = resize(to_model_space(images), self._size).clamp(-1.0, 1.0) / 2 + 0.5
        seen = self._model(pixel_values=((unit - self._mean) / self._std).to(self._device))
        pooled = getattr(seen, "pooler_output", None)
        return (seen.last_hidden_state[:, 0] if pooled is None else pooled).float().cpu()


def open_features(name: str | None, level: str, device: torch.device) -> Features:
    """Return the features called ``name``; by default those of the bundled judge of ``level``."""
    if name is not None:
        return PretrainedFeatures(name, device)
    return JudgeFeatures(level if (WEIGHTS / f"{level}.safetensors").is_file() else GENERAL)
