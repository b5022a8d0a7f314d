"""How long a run takes: measured steps of the learner that trains, forward passes of the others."""

import time
from collections.abc import Mapping

import torch

from minimagen.config.training import UNKNOWN
from minimagen.device import autocast
from minimagen.draws import Draws
from minimagen.training.plan import Plan

FEW = 4  # images of a timed forward pass


class Forecast:
    """The time that a run has left.

    Args:
        plan: What it trains.
        costs: Seconds of an optimizer step of each learner, right in proportion only; those that
            are missing are not known before they are measured.
    """

    def __init__(self, plan: Plan, costs: Mapping[int, float]) -> None:
        self._plan, self._costs = plan, costs

    def left(self, i: int, own: float, pace: float) -> float | None:
        """Return the seconds left in all; None where the learners after ``i`` are not known.

        Args:
            i: The learner that trains.
            own: The seconds that it has left.
            pace: The seconds of one of its steps.
        """
        later = [j for j in self._plan.chosen if j > i]
        if self._plan.config.minutes is not None:
            return own + sum(self._plan.seconds(j) for j in later)
        if not all(j in self._costs for j in (i, *later)):
            return own if not later else None
        relative = (self._plan.steps[j] * self._costs[j] / self._costs[i] for j in later)
        return own + pace * sum(relative)


def forecast(plan: Plan) -> Forecast:
    """Return the forecast of a run; it times two forward passes of each learner.

    Not where minutes are given, what stages are trained with is not trained yet, or networks are
    sharded or compiled.
    """
    config, several = plan.config, len(plan.chosen) > 1
    slow = plan.processes.sharded or config.compile or plan.imagen.config.first_stage > 0
    known = several and config.minutes is None and not slow
    return Forecast(plan, {i: _cost(plan, i) for i in plan.chosen} if known else {})


def _cost(plan: Plan, i: int) -> float:
    """Return the seconds of the forward passes of a step of learner ``i``, the second time."""
    learner, device, config = plan.imagen.learners[i], plan.processes.device, plan.config
    batch = plan.validation(i)[0][:FEW].to(device)
    draws = Draws(config.seed, plan.imagen.config.learner_keys[i], -1, len(batch))
    seconds = 0.0
    with torch.inference_mode(), autocast(device, config.precision):
        for _ in range(2):
            started = time.perf_counter()
            learner.eval().loss(batch, draws).mean().item()
            seconds = time.perf_counter() - started
    return seconds / len(batch) * config.batch_size_of(i)


def duration(seconds: float) -> str:
    """Return a time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def length(plan: Plan, i: int, steps: int) -> str:
    """Return the steps of learner ``i`` for people, with the epochs that they are."""
    size = plan.config.batch_size_of(i)
    text = f"{steps} steps of {size} images"
    images = plan.images
    if images is None or steps == UNKNOWN:
        return text
    return f"{text} ({steps * size / images:.3g} epochs)"
