"""Minutes: the mathematics of a plan that follows the clock, on machines that are simulated."""

from collections.abc import Callable
from typing import cast

import pytest

from minimagen.config import LearnerTrainingConfig, TrainingConfig
from minimagen.config.training import UNKNOWN, Revision
from minimagen.cores import CoreWatch
from minimagen.training.clock import CORES, Costs, StageClock, last_step, planned
from minimagen.training.optim import learning_rate

CONFIG = TrainingConfig(steps=1, chckpt_num=100, sample_num=150)
RATES = LearnerTrainingConfig(optim_lr=2e-3, warmup_steps=50)


def revision(step: int, steps: int, spent: float) -> Revision:
    return Revision(step=step, steps=steps, spent=spent, seconds=0.0)


@pytest.mark.parametrize("step", [0, 37, 100, 250])
@pytest.mark.parametrize("last", [260, 300, 301, 999])
def test_the_last_step_is_the_last_one_for_which_there_is_time(step: int, last: int) -> None:
    """Against a sum over what every step and what comes after it takes."""
    costs = Costs(step=0.5, checkpoint=7.0, sheet=11.0)
    seconds = 0.0
    for made in range(step + 1, last + 1):
        seconds += costs.step
        seconds += costs.checkpoint * (made % 100 == 0 or made == last)
        seconds += costs.sheet * (made % 150 == 0 or made == last)
    assert last_step(step, seconds, costs, CONFIG) == last
    assert last_step(step, seconds - 0.01, costs, CONFIG) == last - 1


@pytest.mark.parametrize("seconds", [-40.0, -0.1, 0.0, 18.4])
def test_without_time_for_a_step_the_stage_ends_where_it_is(seconds: float) -> None:
    assert last_step(70, seconds, Costs(0.5, 7.0, 11.0), CONFIG) == 70


def test_at_an_even_pace_the_rate_is_that_of_as_many_given_steps() -> None:
    revisions = [revision(step, 400, step / 400) for step in (0, 3, 50, 200, 399)]
    for step in range(400):
        total, left = planned(step, revisions)
        assert (total, left) == (400, pytest.approx(400 - step))
        rate = learning_rate(step, total, RATES, left)
        assert rate == pytest.approx(learning_rate(step, 400, RATES))


def test_the_rate_follows_the_time_that_is_spent_and_ends_at_0() -> None:
    """A machine whose speed halves: 300 steps in half of the time, 150 in the other half."""
    revisions = [revision(0, 600, 0.0), revision(300, 450, 0.5)]
    slow = [learning_rate(s, *_arguments(s, revisions)) for s in range(300, 450)]
    even = [learning_rate(s, 900, RATES) for s in range(450, 900, 3)]
    assert slow[0] == pytest.approx(RATES.optim_lr * 0.5 * 450 / (450 - 45))
    assert [rate / slow[0] for rate in slow] == pytest.approx([rate / even[0] for rate in even])
    assert 0 < slow[-1] < RATES.optim_lr / 250


def test_before_the_length_is_known_the_rate_is_the_share_of_the_time_that_is_left() -> None:
    total, left = planned(60, [revision(50, UNKNOWN, 0.25)])
    assert learning_rate(60, total, RATES, left) == pytest.approx(0.75 * RATES.optim_lr)
    total, left = planned(60, [revision(50, 60 * 100, 0.0)])  # slower before than it is from there
    assert learning_rate(60, total, RATES, left) <= RATES.optim_lr


def _arguments(step: int, revisions: list[Revision]) -> tuple[int, LearnerTrainingConfig, float]:
    total, left = planned(step, revisions)
    return total, RATES, left


class Cores:
    """Says how many cores are free."""

    def __init__(self, free: Callable[[], int]) -> None:
        self.look = free


class Machine:
    """A clock that passes with the work of a stage: ``pace(seconds)`` is that of a step."""

    def __init__(self, pace: Callable[[float], float], checkpoint: float, sheet: float) -> None:
        self.time, self.pace = 0.0, pace
        self.checkpoint, self.sheet = checkpoint, sheet

    def now(self) -> float:
        return self.time

    def train(
        self, available: float, config: TrainingConfig, cores: Cores | None = None
    ) -> list[Revision]:
        """Train a stage as ``LearnerRun`` does; return its revisions."""
        watch = cast(CoreWatch | None, cores)
        clock = StageClock(available, self.time, config, cores=watch, now=self.now)
        self._pause(clock, "sheet")
        plan, look = clock.revise(0)
        revisions = [plan]
        for step in range(1, UNKNOWN):
            self.time += self.pace(self.time)
            looked = step >= look or clock.cores_changed()
            if looked:
                plan, look = clock.revise(step)
            if step >= plan.steps:
                self.time += self.checkpoint + self.sheet
                return [*revisions, clock.end(step)]
            for kind, every in (("checkpoint", config.chckpt_num), ("sheet", config.sample_num)):
                if step % every == 0:
                    self._pause(clock, kind)
                    plan, look = clock.revise(step)
                    looked = True
            revisions += [plan] * looked
        raise AssertionError("the stage has no end")

    def _pause(self, clock: StageClock, kind: str) -> None:
        with clock.pause(kind):
            self.time += getattr(self, kind)


MACHINES: dict[str, Callable[[float], float]] = {
    "even": lambda t: 0.2,
    "speed halves after half a minute": lambda t: 0.2 if t < 30 else 0.4,
    "speed halves near the end": lambda t: 0.2 if t < 54 else 0.4,
    "speed doubles": lambda t: 0.2 if t < 30 else 0.1,
    "first steps are slow": lambda t: 6.0 if t < 10 else 0.2,
    "steps are unsteady": lambda t: 0.1 + 0.3 * (1000 * t % 1),
    "steps are long": lambda t: 1.3,
}


@pytest.mark.parametrize("seconds", [7.0, 31.0, 52.0, 58.0])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_threads_follow_the_cores_and_the_plan_their_pace(
    seconds: float, before: int, after: int
) -> None:
    """Ten times as fast with another thread, from some time on: the budget is kept all the same."""
    machine = Machine(lambda t: 1.0 if threads(t) == 1 else 0.1, checkpoint=0.2, sheet=0.3)

    def threads(time: float) -> int:
        return before if time < seconds else after

    revisions = machine.train(60.0, CONFIG, Cores(lambda: threads(machine.time)))
    late = CORES + 1.1 if after == 1 else 0.5  # until it is seen that steps are slower
    assert 60.0 - 1.1 <= machine.time <= 60.0 + late
    changed = next(r for r in revisions if r.threads == after)
    assert seconds <= changed.seconds < seconds + CORES + 1.1
    assert revisions[0].threads == before and revisions[-2].threads == after


def test_without_cores_to_follow_no_threads_are_planned() -> None:
    machine = Machine(lambda t: 0.2, checkpoint=0.6, sheet=1.5)
    assert {r.threads for r in machine.train(60.0, CONFIG)} == {None}


@pytest.mark.parametrize("minutes", [1, 4, 90])
@pytest.mark.parametrize("name", MACHINES)
def test_a_stage_takes_its_time_to_two_percent(name: str, minutes: int) -> None:
    machine = Machine(MACHINES[name], checkpoint=0.6, sheet=1.5)
    config = CONFIG.replace(chckpt_num=500, sample_num=500)
    revisions = machine.train(60 * minutes, config)
    assert machine.time == pytest.approx(60 * minutes, rel=0.025 if minutes == 1 else 0.01)
    assert revisions[-1].seconds == machine.time and revisions[-1].ended
    assert len(revisions) < 60 + 3 * minutes


def test_checkpoints_and_sheets_that_take_most_of_the_time_are_planned_for() -> None:
    machine = Machine(lambda t: 0.1, checkpoint=8.0, sheet=3.0)
    machine.train(300.0, CONFIG)
    assert machine.time == pytest.approx(300.0, abs=3.0)


def test_a_first_step_longer_than_the_budget_ends_a_stage_soon() -> None:
    machine = Machine(lambda t: 100.0, checkpoint=0.0, sheet=0.0)
    assert machine.train(60.0, CONFIG)[-1].steps == 2  # those that are not timed


def test_a_resumed_stage_goes_on_with_what_is_left() -> None:
    machine = Machine(lambda t: 0.2, 0.0, 0.0)
    clock = StageClock(60.0, -45.0, CONFIG, now=machine.now)
    plan, look = clock.revise(225)
    assert (plan.spent, plan.steps, look) == (0.75, UNKNOWN, 227)
    machine.time += 0.4
    plan, _ = clock.revise(227)
    assert plan.steps == 300 and plan.seconds == pytest.approx(45.4)
