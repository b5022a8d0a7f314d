"""Minutes: the steps of a stage follow the clock.

A stage with a budget of minutes is planned again and again while it trains: how many steps fit into
the time that is left, at the pace of the last ones (``last_step``). Its learning rate follows the
share of the time that is spent (``planned``), and its threads the cores that other processes leave
free: a thread that waits for a core keeps all others waiting. The revisions of the plan are kept;
the weights depend on them, and on no clock, so that a run with the same revisions gives the same
weights.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from statistics import mean
from typing import NamedTuple

from minimagen.config import TrainingConfig
from minimagen.config.training import UNKNOWN, Revision
from minimagen.cores import CoreWatch

OFTEN, SELDOM = 1.0, 60.0  # seconds from one revision to the next, at least and at most
CORES = 5.0  # seconds from one look at the cores to the next
CLOSER = 1 / 4  # of the time that is left, at most


class Costs(NamedTuple):
    """Seconds of what a stage does."""

    step: float
    checkpoint: float
    """Validation and saving."""
    sheet: float


def last_step(step: int, seconds: float, costs: Costs, config: TrainingConfig) -> int:
    """Return the last step of a stage that has ``seconds`` left after ``step``, at least ``step``.

    Until then it makes a checkpoint every ``chckpt_num`` steps and a sheet every ``sample_num``,
    and one of each at its end.
    """

    def needed(last: int) -> float:
        checkpoints = 1 + (last - 1) // config.chckpt_num - step // config.chckpt_num
        sheets = 1 + (last - 1) // config.sample_num - step // config.sample_num
        pauses = checkpoints * costs.checkpoint + sheets * costs.sheet
        return (last - step) * costs.step + pauses

    later = range(step + 1, step + 2 + int(seconds / costs.step))
    return step + bisect_right(later, seconds, key=needed)


def in_force(step: int, revisions: Sequence[Revision]) -> Revision:
    """Return the plan that the step after ``step`` steps follows."""
    return revisions[bisect_right(revisions, step, key=attrgetter("step")) - 1]


def planned(step: int, revisions: Sequence[Revision]) -> tuple[int, float]:
    """Return the steps in all, and those left, of the plan that is in force at ``step``.

    Those left follow the time: right after a revision they are the share of the time that is left,
    of all steps; from there they fall to 0 at the last step. At an even pace they are the number of
    steps that are left.
    """
    plan = in_force(step, revisions)
    share = (plan.steps - step) / (plan.steps - plan.step)
    return plan.steps, (1 - plan.spent) * plan.steps * share


class StageClock:
    """The time of one stage.

    Args:
        available: Seconds of the stage, those before it was resumed included.
        begun: When it began, by ``now``; earlier by the seconds that it had before it was resumed.
        config: How often there are checkpoints and sheets.
        untimed: First steps, which also allocate memory, choose kernels and start workers.
        cores: What the number of threads follows, if it does.
        now: The clock, in seconds.
    """

    def __init__(
        self,
        available: float,
        begun: float,
        config: TrainingConfig,
        untimed: int = 2,
        cores: CoreWatch | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.available, self.begun = available, begun
        self._config, self._untimed, self._cores = config, untimed, cores
        self._now = now or time.monotonic
        self._pauses: dict[str, float] = {}  # seconds of the last one of each kind
        self._paused = 0.0  # seconds since the last revision
        self._before: tuple[int, float] | None = None  # step and time of the last revision
        self._paces: list[float] = []  # seconds of a step, at each revision
        self._timed = True  # whether there is one with as many threads as now
        self._threads = None if cores is None else cores.look()
        self._look_at = 0.0  # when to look at the cores again

    @property
    def seconds(self) -> float:
        """Return the seconds that the stage has spent."""
        return self._now() - self.begun

    @contextmanager
    def pause(self, kind: str, share: float = 1.0) -> Iterator[None]:
        """Time a ``checkpoint`` or a ``sheet``, which are no steps, or a ``share`` of one."""
        started = self._now()
        yield
        seconds = self._now() - started
        self._pauses[kind] = seconds / share
        self._paused += seconds

    def revise(self, step: int) -> tuple[Revision, int]:
        """Return the plan after ``step``, and the step after which to revise it again."""
        now = self._now()
        seconds, first = now - self.begun, not self._paces
        if self._before is not None and step > self._before[0]:
            duration = max(now - self._before[1] - self._paused, 1e-6)
            kept = self._paces if self._timed else self._paces[:1]
            self._paces, self._timed = [*kept, duration / (step - self._before[0])], True
        self._before, self._paused = (step, now), 0.0
        self._follow_cores()
        if not self._paces:
            return self._revision(step, UNKNOWN, seconds, self.available), step + self._untimed
        costs = self._costs()
        until = self.available - costs.checkpoint - costs.sheet  # what comes after the last step
        last = last_step(step, self.available - seconds, costs, self._config)
        if first and seconds < until:
            last = max(last, step + 1)  # the first steps are too slow to end a stage for them
        wait = min(SELDOM, max(OFTEN, min(seconds, CLOSER * (until - seconds))))
        look = min(last, step + (max(1, int(wait / costs.step)) if self._timed else 1))
        return self._revision(step, last, seconds, until), look

    def cores_changed(self) -> bool:
        """Return whether not as many cores are free as threads are planned; it looks seldom."""
        if self._cores is None or self._now() < self._look_at:
            return False
        self._look_at = self._now() + CORES
        return self._cores.look() != self._threads

    def _follow_cores(self) -> None:
        """Plan a thread for each free core; with another number of them, steps are timed anew."""
        threads = self._cores.look() if self._cores else None
        if threads != self._threads:
            self._threads, self._timed = threads, False

    def end(self, step: int) -> Revision:
        """Return the plan of a stage that has ended."""
        return Revision(step=step, steps=step, spent=1.0, seconds=self.seconds)

    def _revision(self, step: int, steps: int, seconds: float, until: float) -> Revision:
        spent = min(1.0, max(0.0, seconds / until)) if until > 0 else 1.0
        threads = self._threads
        return Revision(step=step, steps=steps, spent=spent, seconds=seconds, threads=threads)

    def _costs(self) -> Costs:
        """Return what was measured: the mean pace since the revision before the last one."""
        paces = self._paces[1:][-2:] or self._paces  # the first steps are slow
        return Costs(mean(paces), *(self._pauses.get(k, 0.0) for k in ("checkpoint", "sheet")))
