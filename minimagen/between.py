"""What lies between two captions, or two seeds, and how evenly images change on the way."""

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minimagen.draws import SeededNoise
from minimagen.text.encoding import TextEncoder


def steps_between(images: Sequence[Image.Image]) -> np.ndarray:
    """Return the root mean square difference of each image from the next, float64 [n - 1]."""
    pixels = np.stack([np.asarray(image, dtype=np.float64) for image in images])
    return np.sqrt(np.square(np.diff(pixels, axis=0)).mean(axis=(1, 2, 3)))


def unevenness(images: Sequence[Image.Image]) -> float:
    """Return the largest step as a multiple of the median one; 1 where nothing changes."""
    steps = steps_between(images)
    largest, median = float(steps.max()), float(np.median(steps))
    return largest / median if median else math.inf if largest else 1.0


def evenly(count: int) -> list[float]:
    """Return ``count`` shares of a way, 0 to 1, that divide the way itself evenly."""
    return [i / (count - 1) for i in range(count)]


def at_equal_steps(found: Mapping[float, Image.Image], count: int) -> list[float]:
    """Return ``count`` shares of the way that divide what changes on it evenly."""
    shares = sorted(found)
    way = np.concatenate([[0.0], np.cumsum(steps_between([found[share] for share in shares]))])
    inner = np.interp(np.linspace(0.0, way[-1], count)[1:-1], way, shares)
    return [0.0, *map(float, inner), 1.0]


class BetweenCaptions:
    """Encodes what lies between two captions, and any other caption as its encoder does."""

    def __init__(self, encoder: TextEncoder, first: str, last: str) -> None:
        self._encoder, self._ends = encoder, encoder.encode([first, last])
        self._way = f"{first} -> {last}"
        self._shares: dict[str, float] = {}

    def caption(self, share: float) -> str:
        """Return what stands for the share in [0, 1] of the way."""
        name = f"{share!r} of {self._way}"
        self._shares[name] = share
        return name

    def to(self, device: torch.device | str) -> Self:
        """Let its encoder compute on ``device`` from now on."""
        self._encoder.to(device)
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return an embedding [n d] for each caption."""
        return [
            self._at(self._shares[caption])
            if caption in self._shares
            else self._encoder.encode([caption])[0]
            for caption in captions
        ]

    def _at(self, share: float) -> Tensor:
        first, last = self._ends
        if share in (0.0, 1.0):
            return last if share else first
        length = max(len(first), len(last))
        return torch.lerp(stretched(first, length), stretched(last, length), share)


def stretched(embedding: Tensor, length: int) -> Tensor:
    """Return an embedding [n d] with ``length`` tokens, interpolated linearly between its own.

    Attention to tokens that are repeated evenly is that to the tokens once; to padding with zeros
    it is not, and images would jump where the padding begins.
    """
    longer = F.interpolate(embedding.T[None], length, mode="linear", align_corners=True)
    return longer[0].T


class BetweenSeeds:
    """Noise between that of two seeds, on the sphere: cos(p) a + sin(p) b is standard normal too.

    Args:
        first: Of frame 0.
        last: Of the last frame.
        count: Frames.
        frames: Which of them the rows are.
        stage: Whose noise it is.
    """

    def __init__(
        self, first: int, last: int, count: int, frames: Sequence[int], stage: int
    ) -> None:
        shares = evenly(count)
        self._shares = [shares[frame] for frame in frames]
        self._ends = [SeededNoise((seed,), stage) for seed in (first, last)]

    def __call__(self, name: int | str, shape: Sequence[int]) -> Tensor:
        """Return the numbers called ``name``, [b, *shape]."""
        first, last = (noise(name, shape)[0] for noise in self._ends)
        return torch.stack([self._mixed(first, last, share) for share in self._shares])

    def _mixed(self, first: Tensor, last: Tensor, share: float) -> Tensor:
        if share in (0.0, 1.0):
            return last if share else first
        return math.cos(share * math.pi / 2) * first + math.sin(share * math.pi / 2) * last
