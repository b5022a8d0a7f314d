"""How many cores other processes leave free."""

import os
from pathlib import Path

import pytest

from minimagen import cores

AFFINITY = {1, 2, 4, 5}
HERTZ = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Machine:
    """Six cores, four of them for this process, and what it and others do with these four.

    Args:
        stat: A file in place of the system's.
    """

    def __init__(self, stat: Path) -> None:
        self.stat, self.time, self.own = stat, 10.0, 3.0
        self.idle, self.waiting = 1000.0, 500.0
        self.pass_by(0.0, 0.0)

    def pass_by(self, seconds: float, own: float, idle: float = 0.0, waiting: float = 0.0) -> None:
        """Let time pass; the rest is of cores that are so each second."""
        self.time += seconds
        self.own += own * seconds
        self.idle += idle * seconds
        self.waiting += waiting * seconds
        lines = ["cpu 99 0 99 123456 7 9 9 0"]
        for core in range(6):
            own = core in AFFINITY  # the other two are idle all the time
            idle, waiting = (self.idle / 4, self.waiting / 4) if own else (self.time, 0.0)
            ticks = round(idle * HERTZ), round(waiting * HERTZ)
            lines.append(f"cpu{core} 1 0 1 {ticks[0]} {ticks[1]} 9 9 0")
        self.stat.write_text("\n".join([*lines, "intr 17", ""]))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "stat")
    monkeypatch.setattr(cores, "STAT", made.stat)
    monkeypatch.setattr(cores.time, "monotonic", lambda: made.time)
    monkeypatch.setattr(cores.time, "process_time", lambda: made.own)
    monkeypatch.setattr(cores.time, "sleep", lambda seconds: made.pass_by(seconds, 0.0, idle=2.9))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: AFFINITY, raising=False)
    return made


def test_free_are_cores_that_are_idle_that_wait_for_a_disk_and_ones_own(machine: Machine) -> None:
    watch = cores.CoreWatch()
    machine.pass_by(2.0, own=1.0, idle=0.5, waiting=0.5)
    assert watch.look() == 2
    machine.pass_by(5.0, own=1.4)  # two threads that others interrupt
    assert watch.look() == 1
    machine.pass_by(60.0, own=1.0, idle=1.7)
    assert watch.look() == 3


def test_there_is_one_at_least_and_no_more_than_may_be_used(machine: Machine) -> None:
    watch = cores.CoreWatch()
    machine.pass_by(1.0, own=0.2)
    assert watch.look() == 1
    machine.pass_by(1.0, own=4.0, idle=60.0)  # of a machine that has more
    assert watch.look() == 4
    watch = cores.CoreWatch(most=2)
    machine.pass_by(1.0, own=0.0, idle=4.0)
    assert watch.look() == 2


def test_soon_after_a_look_the_number_stays_and_the_time_counts_later(machine: Machine) -> None:
    watch = cores.CoreWatch()
    machine.pass_by(0.5, own=1.0)
    assert watch.look() == 4  # of the beginning
    machine.pass_by(0.6, own=1.0)
    assert watch.look() == 1


def test_of_many_cores_a_few_more_or_less_are_as_many(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = cores.CoreWatch(most=32)
    machine.pass_by(1.0, own=29.0)
    assert watch.look() == 32
    machine.pass_by(1.0, own=27.0)
    assert watch.look() == 27


def test_watching_takes_a_moment(machine: Machine) -> None:
    assert cores.free_cores() == 3
    assert machine.time == pytest.approx(10.0 + cores.WATCHED)


def test_where_nobody_says_what_the_cores_do_all_are_free(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cores, "STAT", tmp_path / "none")
    assert cores.free_cores() == 4
