"""How long each learner trains: steps, given or by epochs, or minutes, which a clock measures."""

import math
from dataclasses import replace

from minimagen.data.dataset import count_of
from minimagen.errors import UserError
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.training.plan import Plan


def with_lengths(plan: Plan, resume: TrainingDirectory | None = None) -> Plan:
    """Return the plan with a number of optimizer steps, or with minutes, for every learner.

    Args:
        plan: What the run trains.
        resume: The run that is resumed: learners that are not chosen keep the steps it has.

    Raises:
        UserError: There is not one number for each learner, or no epoch.
    """
    config = plan.config
    if config.minutes is None:
        steps = list(_steps_of(plan))
        before = None if resume is None else read_parameters(resume.parameters).training
        for i in range(len(steps)):
            if before is not None and i not in plan.chosen:
                steps[i] = before.steps_of(i) or steps[i]
        return plan.lasting(tuple(steps))
    revisions = config.revisions or ((),) * len(config.learners)
    minutes = config.divided(plan.chosen)
    return replace(plan, config=config.replace(minutes=minutes, revisions=revisions))


def _steps_of(plan: Plan) -> tuple[int, ...]:
    config, learners = plan.config, range(len(plan.imagen.learners))
    if isinstance(config.steps, tuple):
        if len(config.steps) != len(learners):
            names = ", ".join(plan.imagen.config.learner_names)
            raise UserError(f"`steps` has {len(config.steps)} entries for {len(learners)}: {names}")
        return config.steps
    if config.steps is not None:
        return (config.steps,) * len(learners)
    assert config.epochs is not None
    counted = count_of(plan.training)
    if counted is None:
        raise UserError("a stream has no length, so no epochs: give `steps` or `minutes` instead")
    images = config.epochs * counted
    return tuple(math.ceil(images / config.batch_size_of(i)) for i in learners)
