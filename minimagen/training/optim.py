"""The optimizers of a stage and their learning rate over the run."""

import torch

from minimagen.config import StageTrainingConfig
from minimagen.learner import Learner
from minimagen.training.muon import Muon
from minimagen.training.processes.alone import Processes


def build_optimizers(
    learner: Learner, config: StageTrainingConfig, processes: Processes
) -> list[torch.optim.Optimizer]:
    """Return the optimizers that together train every parameter of ``learner``.

    ``muon`` trains the hidden matrices of ``learner.parameter_groups()``, if there are any, with
    Muon and all else with AdamW, ``adamw`` all with AdamW. Weight decay acts on matrices and
    kernels only. All ranks share the work of Muon.
    """
    every = [p for p in learner.parameters() if p.requires_grad]
    optimizers: list[torch.optim.Optimizer] = []
    hidden = learner.parameter_groups().hidden
    if hidden and config.optimizer == "muon":
        momentum, decay = config.betas[0], config.weight_decay
        optimizers.append(Muon(hidden, config.optim_lr, momentum, decay, processes))
        taken = {id(p) for p in hidden}
        every = [p for p in every if id(p) not in taken]
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.optim_lr, betas=config.betas, fused=True)
    return [*optimizers, adamw]


def learning_rate(step: int, total_steps: int, config: StageTrainingConfig) -> float:
    """Return the rate of optimizer step ``step`` (from 0) of ``total_steps``.

    Linear from 0 up to ``optim_lr`` over ``warmup_steps`` (at most a tenth of the run), then linear
    down to 0 after the last step: most of the quality of a short run comes with the decay.
    """
    warmup = min(config.warmup_steps, total_steps // 10)
    if step < warmup:
        return config.optim_lr * (step + 1) / warmup
    return config.optim_lr * (total_steps - step) / max(1, total_steps - warmup)
