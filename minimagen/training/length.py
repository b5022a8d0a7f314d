"""How many steps a run takes: given as steps, as epochs, or as minutes that are measured."""

import copy
import math
import time

import torch

from minimagen.data.dataset import count_of
from minimagen.errors import UserError
from minimagen.training.plan import Plan

UNTIMED_STEPS = 2  # of each size: the first ones also allocate, choose kernels and start workers
TIMED_STEPS = 10  # of each stage at least, to turn minutes into steps
FAR = 10**9  # a step that is not reached: every timed step reads ahead like those of a long run
OVERHEAD = 0.93  # share of the minutes left for steps; the rest is validation, sheets, saving


def steps_of(plan: Plan) -> tuple[int, ...]:
    """Return every stage's number of optimizer steps.

    Minutes are for the chosen stages together. Another stage gets as many steps as its share would
    be beside them, for a run that trains it later.

    Raises:
        UserError: There is not one number of steps for each stage, or minutes cannot be measured.
    """
    config, stages = plan.config, range(len(plan.imagen.stages))
    if isinstance(config.steps, tuple):
        if len(config.steps) != len(stages):
            raise UserError(f"steps has {len(config.steps)} entries for {len(stages)} stages")
        return config.steps
    if config.steps is not None:
        return (config.steps,) * len(stages)
    if config.epochs is not None:
        counted = count_of(plan.training)
        if counted is None:
            raise UserError(
                "a stream has no length, so no epochs: give `steps` or `minutes` instead"
            )
        images = config.epochs * counted
        return tuple(math.ceil(images / config.batch_size_of(i)) for i in stages)
    assert config.minutes is not None
    if plan.processes.sharded:
        raise UserError("`minutes` cannot be used with `fsdp`; give `steps` or `epochs`")
    seconds = 60 * config.minutes * OVERHEAD
    together = sum(config.stages[i].share for i in plan.chosen)
    return tuple(
        max(1, int(seconds * config.stages[i].share / together / _seconds_per_step(plan, i)))
        for i in stages
    )


def _seconds_per_step(plan: Plan, i: int) -> float:
    """Time a few steps of a copy of stage ``i``: each reads one batch; text is encoded before."""
    sizes = len(plan.training.sizes)
    untimed, timed = UNTIMED_STEPS * sizes, max(TIMED_STEPS, UNTIMED_STEPS * sizes)
    trainer = plan.trainer(i, copy.deepcopy(plan.imagen.stages[i]), untimed + timed)
    started = time.perf_counter()
    for batch in plan.processes.in_step(plan.batches(i, 0, FAR)):
        trainer.train_step(batch)
        if trainer.step == untimed:
            trainer.check()  # waits for a GPU
            started = time.perf_counter()
        if trainer.done:
            break
    trainer.check()
    seconds = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
    return float(plan.processes.mean(seconds)) / timed
