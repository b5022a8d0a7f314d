"""Do the settings of a run fit together?"""

from collections.abc import Sequence

from minimagen.config import TrainingConfig
from minimagen.errors import UserError


def chosen_stages(stages: Sequence[int] | None, count: int) -> Sequence[int]:
    """Return the stages to train, checked."""
    for i in stages or ():
        if not 0 <= i < count:
            raise UserError(f"`stages`: there is no stage {i}; the stages are 0 to {count - 1}")
    return range(count) if stages is None else stages


def check_settings(
    config: TrainingConfig, chosen: Sequence[int], world: int, sharded: bool
) -> None:
    """Raise a UserError unless the settings fit the processes.

    Args:
        config: With one entry for each stage.
        chosen: The stages to train.
        world: How many processes share each batch out.
        sharded: Whether each holds only its share of the weights.
    """
    parts = world * config.accum_iter
    for i in chosen:
        size = config.batch_size_of(i)
        if size % parts:
            raise UserError(
                f"`batch_size` {size} of stage {i}, all ranks together, is not divisible "
                f"by {world} ranks x `accum_iter` {config.accum_iter}; use a multiple of {parts}"
            )
    if sharded and any(config.stages[i].optimizer == "muon" for i in chosen):
        raise UserError(
            "Muon makes whole matrices orthogonal, and FSDP divides them: set "
            '"optimizer": "adamw" for the stages in training.json '
        )
