"""Regional compilation: what a network's blocks compute is compiled by kind of block, for training.

Blocks of equal shapes share their compiled code, so the first step takes a minute where compiling
the whole network takes many. Parameters keep their names, and hooks (FSDP's) stay outside.
"""

from collections.abc import Callable
from functools import cache
from typing import ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")

TEXT_LENGTHS = (32, 64, 128, 256)
"""Tokens that captions are padded to, as each length is compiled; above, multiples of the last."""
MOST_SHAPES = 256  # of one kind of block; above torch's own limit, 8, it would not be compiled


def in_training(function: Callable[P, Tensor], compiled: bool) -> Callable[P, Tensor]:
    """Return ``function``, compiled if that is wanted and gradients are.

    Validation and sampling come in other shapes, too few times to pay for their compilation.
    """
    return _compiled(function) if compiled and torch.is_grad_enabled() else function


@cache
def _compiled(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    compiled = torch.compile(function, dynamic=False)
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.optimize_ddp = False  # blocks are small; it would cut them into pieces
    return compiled


def pad_text(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings [b n d] and their mask [b n] with n padded to one of ``TEXT_LENGTHS``."""
    length, longest = embeds.shape[1], TEXT_LENGTHS[-1]
    fitting = (size for size in TEXT_LENGTHS if size >= length)
    missing = next(fitting, -(-length // longest) * longest) - length
    return F.pad(embeds, (0, 0, 0, missing)), F.pad(mask, (0, missing))
