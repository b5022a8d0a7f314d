"""How long each stage trains: steps, given or by epochs, or minutes, which a clock measures."""

import math
from dataclasses import replace

from minimagen.data.dataset import count_of
from minimagen.errors import UserError
from minimagen.training.plan import Plan


def with_lengths(plan: Plan) -> Plan:
    """Return the plan with a number of optimizer steps, or with minutes, for every stage.

    Raises:
        UserError: There is not one number for each stage, or no epoch.
    """
    config = plan.config
    if config.minutes is None:
        return plan.lasting(_steps_of(plan))
    revisions = config.revisions or ((),) * len(config.learners)
    minutes = config.divided(plan.chosen)
    return replace(plan, config=config.replace(minutes=minutes, revisions=revisions))


def _steps_of(plan: Plan) -> tuple[int, ...]:
    config, stages = plan.config, range(len(plan.imagen.stages))
    if isinstance(config.steps, tuple):
        if len(config.steps) != len(stages):
            raise UserError(f"steps has {len(config.steps)} entries for {len(stages)} stages")
        return config.steps
    if config.steps is not None:
        return (config.steps,) * len(stages)
    assert config.epochs is not None
    counted = count_of(plan.training)
    if counted is None:
        raise UserError("a stream has no length, so no epochs: give `steps` or `minutes` instead")
    images = config.epochs * counted
    return tuple(math.ceil(images / config.batch_size_of(i)) for i in stages)
