"""The losses of a CLIP: which caption belongs to which image of a batch. Computed in fp32.

Letters of shapes: b rows of this process, B rows of all processes, d width.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from minimagen.device import exactly


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all processes, [b ...] -> [B ...]; gradients flow back to each."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows.contiguous())))


def info_nce(
    images: Tensor, texts: Tensor, scale: Tensor, same: Tensor, across: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the symmetric cross-entropy of every row above its least possible value, [b].

    arXiv 2103.00020, figure 3, where rows with equal captions are positives alike: the target of a
    row is uniform over them, so that the loss cannot fall below log(how many they are), which is
    subtracted.

    Args:
        images: Unit vectors of the rows [b d].
        texts: The same of their captions.
        scale: 1 / temperature, [].
        same: bool [b B], True where captions are equal.
        across: ``images`` and ``texts`` of all processes, [B d] each.
    """
    all_images, all_texts = across
    target = same / same.sum(1, keepdim=True)
    least = same.sum(1).to(scale.dtype).log()
    with exactly(images.device):
        by_image = _cross_entropy(scale * images @ all_texts.T, target)
        by_text = _cross_entropy(scale * texts @ all_images.T, target)
    return (by_image + by_text) / 2 - least


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(logits, dim=1)).sum(1)


def sigmoid_loss(
    images: Tensor, scale: Tensor, bias: Tensor, same: Tensor, all_texts: Tensor
) -> Tensor:
    """Return the sigmoid loss of every row, [b] (SigLIP, arXiv 2303.15343, eq. 1).

    Each pair is a decision of its own: equal captions belong to the image, others do not.
    """
    with exactly(images.device):
        logits = scale * images @ all_texts.T + bias
    return -F.logsigmoid(torch.where(same, logits, -logits)).sum(1)


FIRST_SCALE, LARGEST_SCALE = math.log(1 / 0.07), math.log(100.0)
"""Of the logarithm of 1 / temperature (arXiv 2103.00020, section 2.5); the least is 0."""
FIRST_SIGMOID_SCALE, FIRST_BIAS = math.log(10.0), -10.0
"""arXiv 2303.15343, section 3.3."""
