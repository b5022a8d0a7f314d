"""How good generated images of a real data set are: figures beside those of real images."""

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.judges import all_emoji, load_judge, recognized
from benchmarks.real_data import FEW_STYLE, Images, RealSet, balanced, emoji_rows
from minimagen.evaluation.judge import Judge
from minimagen.evaluation.memorization import find_copies, small_pixels
from minimagen.evaluation.metrics import (
    frechet_distance,
    kernel_distance,
    spread,
    wilson_interval,
)

NEW = 200  # emoji of a style that few are trained on
RING = 3  # px from the border: where the background is measured


def asked(real: RealSet, split: str = "test") -> Images:
    """Return the captions to generate, each with a real image of that caption.

    For classes the real images are held-out ones; for emoji those that were trained on, and the two
    splits have no caption in common.
    """
    if not real.name.startswith("emoji"):
        return balanced(real.held_out_images(split), real.count)
    both = balanced(real.training_images(), 2 * real.count)
    if split == "test":
        return both.rows(range(min(real.count, len(both))))
    final = set(both.captions[: real.count])
    return both.rows(i for i in range(real.count, len(both)) if both.captions[i] not in final)


def new_emoji(real: RealSet, split: str) -> Images:
    """Return emoji that are not trained on, but in a style that is.

    Of all emoji they are the held-out combinations; of the few, others in their style.
    """
    if real.name == "emoji":
        return real.held_out_images(split)
    known, every = set(real.all_images().captions), all_emoji(real)
    own = [row["caption"] for row in emoji_rows() if row["style"] == FEW_STYLE]
    chosen = random.Random(0).sample([caption for caption in own if caption not in known], NEW)
    at = {caption: i for i, caption in enumerate(every.captions)}
    return every.rows(at[caption] for caption in chosen)


def scores(real: RealSet, generated: Tensor, truth: Images, split: str = "test") -> dict[str, Any]:
    """Return the figures of generated images.

    Args:
        real: their data set.
        generated: uint8 [n 3 side side], in the order of the captions.
        truth: the captions, with real images of the same captions.
        split: what ``truth`` is of.
    """
    judge = load_judge(real)
    training, count = real.training_images(), len(truth)
    shown = set(truth.captions) if real.name.startswith("emoji") else set()
    others = [i for i, caption in enumerate(training.captions) if caption not in shown]
    other = balanced(training.rows(others), count, seed=1)
    right = recognized(judge, generated, truth.captions)
    features = [judge.features(images) for images in (generated, truth.images, other.images)]
    return {
        "recognized": sum(right) / count,
        "interval": list(wilson_interval(sum(right), count)),
        "real_recognized": _share(recognized(judge, truth.images, truth.captions)),
        "frechet": frechet_distance(features[0], features[1]),
        "frechet_floor": frechet_distance(features[2], features[1]),
        "kernel": kernel_distance(features[0], features[1]),
        "kernel_floor": kernel_distance(features[2], features[1]),
        **background(real, generated, truth),
        **diversity(judge, generated, truth),
        **copies(generated, real.held_out_images(split), training),
    }


def background(real: RealSet, generated: Tensor, truth: Images) -> dict[str, Any]:
    """Return noise and level of the border where real images are flat, in 1/255; {} if nowhere.

    For emoji these are the pixels of the border that are white in the real image of the caption,
    for digits those that are black in every real image.
    """
    side = real.side
    near = torch.ones(side, side, dtype=torch.bool)
    near[RING:-RING, RING:-RING] = False
    if real.name.startswith("emoji"):
        dark = (truth.images.amin(1, keepdim=True) < 250).float()
        flat = (F.max_pool2d(dark, 5, 1, 2)[:, 0] == 0) & near
    else:
        flat = ((truth.images.amax(1).float() > 2).float().mean(0) < 0.001) & near
        flat = flat.expand(len(truth), -1, -1)
    rows = flat.flatten(1).sum(1) >= 2 * side
    if not rows.any():
        return {}
    pixels = [
        (made[:, f].float(), real_[:, f].float())
        for made, real_, f in zip(generated[rows], truth.images[rows], flat[rows], strict=True)
    ]
    return {
        "flat_std": _mean([made.std(1).mean().item() for made, _ in pixels]),
        "flat_std_real": _mean([real_.std(1).mean().item() for _, real_ in pixels]),
        "flat_level": _median([made.median().item() for made, _ in pixels]),
        "flat_level_real": _median([real_.median().item() for _, real_ in pixels]),
    }


def diversity(judge: Judge, generated: Tensor, truth: Images) -> dict[str, float]:
    """Return the mean distance of images of one caption, relative to that of real ones.

    In the judge's features; {} where each caption has one image.
    """
    made, real = (
        spread(judge.features(images), truth.captions) for images in (generated, truth.images)
    )
    return {} if made is None or real is None else {"diversity": made / real}


def copies(generated: Tensor, held_out: Images, training: Images) -> dict[str, float]:
    """Return the share of copies among generated and among held-out images.

    An image is a copy if its nearest training image is less than a third as far away as its second
    nearest, in the pixels of both at 8 px.
    """
    chosen = random.Random(2).sample(range(len(held_out)), min(len(held_out), len(generated)))
    found = find_copies(generated, held_out.images[chosen], training.images, small_pixels)
    return {"copies": found.made.copies, "copies_held_out": found.held_out.copies}


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
