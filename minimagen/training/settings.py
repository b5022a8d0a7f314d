"""Do the settings of a run fit together?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minimagen.config import TrainingConfig
from minimagen.errors import UserError

if TYPE_CHECKING:  # it would load torch
    from minimagen.learner import Learner


def chosen_stages(stages: Sequence[int] | None, count: int) -> Sequence[int]:
    """Return the stages to train, checked."""
    for i in stages or ():
        if not 0 <= i < count:
            raise UserError(f"`stages`: there is no stage {i}; the stages are 0 to {count - 1}")
    return range(count) if stages is None else stages


def check_settings(
    config: TrainingConfig,
    stages: Sequence[Learner],
    chosen: Sequence[int],
    world: int = 1,
    sharded: bool = False,
) -> None:
    """Raise a UserError unless the settings fit the stages and the processes.

    Args:
        config: With one entry for each stage.
        stages: Of the cascade.
        chosen: The stages to train.
        world: The number of processes that each batch is divided among.
        sharded: Whether each process holds only its shard of the weights.
    """
    parts = world * config.accum_iter
    for i in chosen:
        size = config.batch_size_of(i)
        divided = f"{world} ranks x `accum_iter` {config.accum_iter}"
        if size % parts:
            raise UserError(
                f"`batch_size` {size} of stage {i}, all ranks together, is not divisible by "
                f"{divided}; use a multiple of {parts}"
            )
        if parts > 1 and not stages[i].per_example:
            raise UserError(
                f"the loss of {stages[i].name} compares the examples of a whole batch, which "
                f"{divided} would divide; use one process and `accum_iter` 1"
            )
    if sharded and any(config.stages[i].optimizer == "muon" for i in chosen):
        raise UserError(
            "Muon makes whole matrices orthogonal, and FSDP divides them: set "
            '"optimizer": "adamw" for the stages in training.json'
        )
