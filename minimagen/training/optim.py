"""The optimizer of a stage and its learning rate over the run."""

from collections.abc import Iterable

import torch
from torch import nn

from minimagen.config import StageTrainingConfig


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: StageTrainingConfig
) -> torch.optim.AdamW:
    """Return AdamW, fused; weight decay acts on matrices and kernels only."""
    every = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.optim_lr, betas=config.betas, fused=True)


def learning_rate(step: int, total_steps: int, config: StageTrainingConfig) -> float:
    """Return the rate of optimizer step ``step`` (from 0) of ``total_steps``.

    Linear from 0 up to ``optim_lr`` over ``warmup_steps`` (at most a tenth of the run), then linear
    down to 0 after the last step: most of the quality of a short run comes with the decay.
    """
    warmup = min(config.warmup_steps, total_steps // 10)
    if step < warmup:
        return config.optim_lr * (step + 1) / warmup
    return config.optim_lr * (total_steps - step) / max(1, total_steps - warmup)
