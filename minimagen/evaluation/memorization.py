"""Are generated images copies of training images?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from minimagen.evaluation.metrics import wilson_interval
from minimagen.images import resize_clamped, to_model_space, to_pil
from minimagen.storage.image_files import contact_sheet

COPIED = 1 / 3  # of the distance to the second nearest: nearer is a copy (arXiv 2212.03860)
PIXELS = 8  # side of the images whose pixels are compared
PAIRS = 10  # on the sheet

Vectors = Callable[[Tensor], Tensor]
"""Maps uint8 images [n 3 h w] to vectors [n d]."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each of some images.

    Attributes:
        row: Which training image it is [n].
        ratio: Its distance, relative to that of the second nearest one [n].
    """

    row: Tensor
    ratio: Tensor

    @property
    def copies(self) -> float:
        """Return the share of images that are copies."""
        return float((self.ratio < COPIED).double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of that share."""
        return wilson_interval(round(self.copies * len(self.ratio)), len(self.ratio))


def nearest(vectors: Tensor, known: Tensor) -> Nearest:
    """Return the nearest of the vectors ``known`` [m d] of each of ``vectors`` [n d].

    Equal ones count once: an image that is in the data twice would hide its copies. m >= 2.
    """
    distinct, where = torch.unique(known, dim=0, return_inverse=True)
    if len(distinct) < 2:
        return Nearest(torch.zeros(len(vectors), dtype=torch.long), torch.ones(len(vectors)))
    first = torch.full((len(distinct),), len(known)).scatter_reduce(
        0, where, torch.arange(len(known)), "amin"
    )
    found = torch.cdist(vectors, distinct).topk(2, largest=False)
    one, two = found.values.unbind(1)
    return Nearest(first[found.indices[:, 0]], one / two.clamp(min=1e-12))


def small_pixels(images: Tensor) -> Tensor:
    """Return uint8 images [n 3 h w] as vectors [n 3 * PIXELS^2]: themselves, shrunk."""
    parts = [resize_clamped(to_model_space(x), (PIXELS, PIXELS)) for x in images.split(2000)]
    return torch.cat(parts).flatten(1)


@dataclass(frozen=True)
class Copies:
    """What generated images (``made``) and held-out ones have in the training data.

    ``made`` is larger by copying alone: the held-out images have what similarity there is anyway.
    """

    made: Nearest
    held_out: Nearest

    @property
    def found(self) -> bool:
        """Return whether more is copied than chance explains: the two intervals are apart."""
        return self.made.interval[0] > self.held_out.interval[1]


def find_copies(images: Tensor, held_out: Tensor, training: Tensor, vectors: Vectors) -> Copies:
    """Compare uint8 images [n 3 h w] with training images, in ``vectors`` of them.

    A held-out image counts once, however often it is there.
    """
    known, others = vectors(training), vectors(torch.unique(held_out, dim=0))
    return Copies(nearest(vectors(images), known), nearest(others, known))


def pair_sheet(images: Tensor, training: Tensor, found: Nearest) -> Image.Image:
    """Return a sheet of the ``PAIRS`` closest pairs: a generated image, its training image."""
    rows = found.ratio.argsort()[:PAIRS]
    sides = [images[rows], training[found.row[rows]]]
    texts = [f"d1/d2 {ratio:.2f}" for ratio in found.ratio[rows].tolist()]
    return contact_sheet(texts, [to_pil(to_model_space(side)) for side in sides])
