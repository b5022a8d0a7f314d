"""What a CLIP knows of images that it was not trained on: classes, captions, and their images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minimagen.config import DataConfig
from minimagen.data.dataset import Dataset
from minimagen.data.loading.batches import good_samples
from minimagen.data.loading.reading import stack_images
from minimagen.draws import derive_seed
from minimagen.errors import UserError
from minimagen.evaluation.metrics import wilson_interval
from minimagen.evaluation.sets import of_all_kinds
from minimagen.images import resize_clamped, to_model_space
from minimagen.sample import Sample
from minimagen.text.clip import Clip

TEMPLATES = ("a photo of {}", "an image that shows {}", "this is {}")
AT_ONCE = 256
MOST_CLASSES = 200  # distinct captions that are taken for names of classes
SHOWN = 16  # rows and columns of the similarity matrix
CELL = 24  # px


@dataclass(frozen=True)
class ClipReport:
    """What was measured, on ``count`` images.

    Attributes:
        count: Images.
        captions: Distinct captions.
        accuracy: Share of images whose class is the nearest one; None where there are no classes.
        recall: By k, the share of images whose caption is among the k nearest of all.
        image_recall: By k, the share of captions with one of their images among the k nearest.
        similarity: Cosine of some images (rows) and their captions (columns), [n n].
        shown: Those captions.
    """

    count: int
    captions: int
    accuracy: float | None
    recall: dict[int, float]
    image_recall: dict[int, float]
    similarity: Tensor
    shown: tuple[str, ...]

    def lines(self) -> Iterable[str]:
        """Yield the figures as text."""
        if self.accuracy is not None:
            low, high = wilson_interval(round(self.accuracy * self.count), self.count)
            yield f"zero-shot accuracy: {100 * self.accuracy:.2f} % (n {self.count})"
            yield f"  {self.captions} classes, 95 % interval {100 * low:.2f} to {100 * high:.2f}"
        for what, recall in (("caption", self.recall), ("image", self.image_recall)):
            parts = ", ".join(f"R@{k} {100 * share:.1f} %" for k, share in recall.items())
            yield f"{what} retrieval among {self.captions} captions, {self.count} images: {parts}"


def held_out(dataset: Dataset, count: int | None, data: DataConfig | None = None) -> list[Sample]:
    """Return the good samples of the test or validation split, or ``count`` of them.

    ``data`` is what a training divided the data set by, so that none of these is trained on.
    """
    data = data or DataConfig()
    _, validation = dataset.split(data.train_valid_frac, data.seed, data.valid_num)
    most = len(validation) if count is None else min(count, len(validation))
    return list(good_samples(of_all_kinds(dataset, validation, data.seed), most))


@torch.inference_mode()
def image_vectors(clip: Clip, samples: Sequence[Sample]) -> Tensor:
    """Return the unit vectors of the images of ``samples``, float32 [n d] on the CPU."""
    parts = [samples[i : i + AT_ONCE] for i in range(0, len(samples), AT_ONCE)]
    return torch.cat([vectors_of(clip, stack_images(part)) for part in parts])


@torch.inference_mode()
def vectors_of(clip: Clip, images: Tensor) -> Tensor:
    """Return the unit vectors of uint8 images [n 3 h w] of any size, float32 [n d] on the CPU."""
    clip.eval()
    device = next(clip.parameters()).device
    resized = resize_clamped(to_model_space(images), clip.config.image_size)
    parts = resized.split(AT_ONCE)
    return torch.cat([clip.of_images(part.to(device)).float().cpu() for part in parts])


@torch.inference_mode()
def caption_vectors(clip: Clip, captions: Sequence[str]) -> Tensor:
    """Return the unit vectors of captions, float32 [n d] on the CPU."""
    clip.eval()
    parts = [captions[i : i + AT_ONCE] for i in range(0, len(captions), AT_ONCE)]
    return torch.cat([clip.of_captions(part).float().cpu() for part in parts])


def class_vectors(clip: Clip, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Tensor:
    """Return a unit vector for each class, [n d]: the mean over templates (2103.00020, 3.1.4)."""
    vectors = [caption_vectors(clip, [t.replace("{}", name) for name in names]) for t in templates]
    return F.normalize(torch.stack(vectors).mean(0), dim=-1)


def recall_at(similarity: Tensor, right: Tensor, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Return by k the share of rows with a right column among the k most similar ones.

    Args:
        similarity: [n m].
        right: bool [n m].
        ks: How many columns; more than there are count as all.
    """
    order = similarity.topk(min(max(ks), similarity.shape[1]), dim=1).indices
    found = right.gather(1, order).cumsum(1).clamp(max=1)
    return {k: float(found[:, min(k, order.shape[1]) - 1].double().mean()) for k in ks}


def evaluate_clip(
    clip: Clip, samples: Sequence[Sample], templates: Sequence[str] = TEMPLATES
) -> ClipReport:
    """Measure a CLIP on samples that it was not trained on.

    Few different captions are names of classes: each image is classified by the nearest one in
    ``templates``. Retrieval is by the captions as they are.
    """
    captions = list(dict.fromkeys(sample.caption for sample in samples))
    places = {caption: i for i, caption in enumerate(captions)}
    truth = torch.tensor([places[sample.caption] for sample in samples])
    images, texts = image_vectors(clip, samples), caption_vectors(clip, captions)
    accuracy = None
    if len(captions) <= min(MOST_CLASSES, len(samples) // 2):
        nearest = (images @ class_vectors(clip, captions, templates).T).argmax(1)
        accuracy = float((nearest == truth).double().mean())
    similarity, right = images @ texts.T, F.one_hot(truth, len(captions)).bool()
    first = [int((truth == i).nonzero()[0]) for i in range(min(SHOWN, len(captions)))]
    return ClipReport(
        len(samples),
        len(captions),
        accuracy,
        recall_at(similarity, right),
        recall_at(similarity.T, right.T),
        similarity[first][:, : len(first)],
        tuple(captions[: len(first)]),
    )


def similarity_image(similarity: Tensor) -> Image.Image:
    """Return a matrix of cosines as squares: white for 1, black for the least of all."""
    low = float(similarity.min())
    shade = ((similarity - low) / max(1.0 - low, 1e-6)).clamp(0.0, 1.0)
    pixels = (255 * shade).round().to(torch.uint8).numpy()
    large = np.kron(pixels, np.ones((CELL, CELL), dtype=np.uint8))
    return Image.fromarray(large).convert("RGB")


DISTRACTORS = 99  # captions beside the own one


class Alignment(NamedTuple):
    """How well each of n images fits its caption, as a CLIP sees it."""

    gap: Tensor
    """The cosine of an image and its caption, above the mean of those with others, float64 [n]."""
    nearest: Tensor
    """Whether its own caption is nearer than all others that are tried, bool [n]."""


def alignment(images: Tensor, texts: Tensor, captions: Sequence[str], seed: int = 0) -> Alignment:
    """Return how well images fit their captions.

    A cosine alone has no meaning for a CLIP of one's own; compare with that of real images. The
    mean of ``nearest`` is the R-precision (arXiv 1711.10485, section 4): 99 other captions are
    tried, or all where there are fewer.

    Args:
        images: Unit vectors of the images [n d].
        texts: Unit vectors of their captions [n d].
        captions: Those captions.
        seed: Of the captions that are tried.
    """
    similarity = (images @ texts.T).double()
    other = np.array([[a != b for b in captions] for a in captions])
    rng = np.random.default_rng(derive_seed(seed, "distractors"))
    gaps, nearest = [], []
    for i, row in enumerate(similarity):
        chosen = torch.from_numpy(rng.permutation(np.flatnonzero(other[i]))[:DISTRACTORS])
        if not len(chosen):
            raise UserError("all captions are equal: there is nothing to compare an image with")
        gaps.append(row[i] - row[chosen].mean())
        nearest.append(row[i] > row[chosen].max())
    return Alignment(torch.stack(gaps), torch.stack(nearest))
