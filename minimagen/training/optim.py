"""The optimizers of a learner and their learning rate over the run."""

import torch

from minimagen.config import LearnerTrainingConfig
from minimagen.learner import Learner
from minimagen.training.muon import Muon
from minimagen.training.processes.alone import Processes


def build_optimizers(
    learner: Learner, config: LearnerTrainingConfig, processes: Processes
) -> list[torch.optim.Optimizer]:
    """Return the optimizers that together train every parameter of ``learner``.

    ``muon`` trains the hidden matrices of ``learner.parameter_groups()``, if there are any, with
    Muon and all else with AdamW, ``adamw`` all with AdamW. Weight decay acts on matrices and
    kernels only. All ranks share the work of Muon.
    """
    rate, decay = config.optim_lr, config.weight_decay
    hidden, rest = learner.parameter_groups()
    if config.optimizer == "adamw":
        hidden, rest = [], [*hidden, *rest]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True)
    return [*([Muon(hidden, rate, config.betas[0], decay, processes)] if hidden else []), adamw]


def learning_rate(
    step: int, total_steps: int, config: LearnerTrainingConfig, left: float | None = None
) -> float:
    """Return the rate of optimizer step ``step`` (from 0) of ``total_steps``.

    Args:
        step: Steps made.
        total_steps: Of the whole run, as it is planned.
        config: The peak and the warm-up.
        left: Steps that are left, where the time that is left decides it (``clock.planned``).

    Linear from 0 up to ``optim_lr`` over ``warmup_steps`` (at most a tenth of the run), then linear
    down to 0 after the last step: most of the quality of a short run comes with the decay.
    """
    warmup = min(config.warmup_steps, total_steps // 10)
    if step < warmup:
        return config.optim_lr * (step + 1) / warmup
    left = total_steps - step if left is None else min(left, total_steps - warmup)
    return config.optim_lr * left / max(1, total_steps - warmup)
