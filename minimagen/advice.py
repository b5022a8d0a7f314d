"""Warnings that teach: what went wrong, in numbers, and what to do. Functions of numbers alone.

Each returns None where all is well. They name parameters in back quotes. Which limits were measured
is in docs/decisions.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

EPOCHS = 100  # of the same images, above which a network can learn them by heart
RISE = 1.02  # of the validation loss over its best, that is no noise
PATIENCE = 2  # validations after the best one, at least
ERROR = 1.0  # of the estimates, over that of the enlarged low-resolution images
BURNT = 0.1  # share of the values of guided estimates that lie far outside the range of images
FEW = 2000  # images that a cascade hardly learns to draw from


class Losses(NamedTuple):
    """Those of a stage at a checkpoint."""

    step: int
    training: float
    """Mean over the last steps."""
    validation: float


def many_epochs(learner: str, images: int, epochs: float) -> str | None:
    """Warn of a plan that shows a learner each of ``images`` very often."""
    if epochs <= EPOCHS:
        return None
    return (
        f"WARNING: {learner} will see each of the {images} images {epochs:.0f} times; above "
        f"{EPOCHS} times it can learn them by heart. Its best weights are kept (`weights` best); "
        "`from` a trained cascade, `flip`, more images or fewer steps help"
    )


def memorizing(learner: str, checkpoints: Sequence[Losses]) -> str | None:
    """Warn of validation that rises while training falls; the oldest checkpoint comes first."""
    best = min(checkpoints, key=lambda losses: losses.validation)
    now = checkpoints[-1]
    falls = now.training < best.training
    rises = now.validation > RISE * best.validation
    if not (falls and rises) or len(checkpoints) - 1 - checkpoints.index(best) < PATIENCE:
        return None
    return (
        f"WARNING: {learner} memorizes: since step {best.step} its validation loss rose from "
        f"{best.validation:.4f} to {now.validation:.4f}, while its training loss fell from "
        f"{best.training:.4f} to {now.training:.4f}. The weights of step {best.step} are kept "
        "(`weights` best); more images, `flip` or fewer steps help"
    )


def enlarged(count: int, images: int) -> str | None:
    """Warn of images that are smaller than they are trained at."""
    if count == 0:
        return None
    return (
        f"{count} of the first {images} images are smaller than they are trained at and were "
        "enlarged: the networks learn their blur. A smaller `img_side_len` avoids it, or "
        '`where` "width >= ..." leaves them out'
    )


def undertrained(stage: int, error: float) -> str | None:
    """Warn of super-resolution that has not learned to remove noise.

    Args:
        stage: Its index.
        error: That of its estimates of validation images over that of the enlarged low-resolution
            images, at the noise level where it is largest.
    """
    if error <= ERROR:
        return None
    return (
        f"WARNING: stage {stage} is undertrained: its estimates are {error:.2f} times as wrong as "
        "the enlarged low-resolution images, so what it adds is grain. Train it longer "
        f"(`restart_directory` ... `stages` {stage}), or a cascade with fewer stages"
    )


def burning(stage: int, share: float, guidance_scale: float) -> str | None:
    """Warn of guidance that drives a large ``share`` of the values out of the range of images."""
    if share <= BURNT:
        return None
    return (
        f"WARNING: guidance {guidance_scale:g} drives {100 * share:.0f} % of the values of stage "
        f"{stage} out of the range of images (above {100 * BURNT:.0f} %), so colors burn; give a "
        "lower `guidance_scale`"
    )


def few_images(images: int | None, cascade: str) -> str | None:
    """Suggest to start from a bundled ``cascade`` where there are few images."""
    if images is None or images >= FEW:
        return None
    return (
        f"{images} images are few to learn from. `from` {cascade} starts from a trained cascade of "
        "the same size, which knows how to draw already"
    )
