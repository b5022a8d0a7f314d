"""Threads for the cores that are free."""

import os
from pathlib import Path

import pytest

from minimagen.cli import threads

HERTZ = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine of 4 cores, of which some are idle while it is watched."""

    def make(idle: float) -> None:
        stat, clock = tmp_path / "stat", iter([0.0, 0.5])
        stat.write_text("cpu 7 0 7 1000 500 9 9 0\ncpu0 1 1 1 1 1\n")

        def sleep(seconds: float) -> None:
            ticks = 1000 + round(0.4 * idle * HERTZ)
            stat.write_text(f"cpu 99 0 99 {ticks} {500 + round(0.1 * idle * HERTZ)} 9 9 0\n")

        monkeypatch.setattr(threads, "STAT", stat)
        monkeypatch.setattr(threads.time, "monotonic", lambda: next(clock))
        monkeypatch.setattr(threads.time, "sleep", sleep)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return make


@pytest.mark.parametrize(("idle", "number"), [(0.0, "1"), (1.2, "1"), (2.9, "3"), (4.0, None)])
def test_sampling_takes_a_thread_for_each_idle_core(machine, idle, number, monkeypatch):
    machine(idle)
    threads.use_free_cores()
    assert os.environ.get("OMP_NUM_THREADS") == number


def test_a_number_that_was_chosen_stays(machine, monkeypatch):
    machine(0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.use_free_cores()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_training_reports_busy_cores_and_chooses_nothing(machine, capsys):
    machine(1.0)
    threads.report_busy_cores()
    assert "use 3 of 4 cores" in (note := capsys.readouterr().err) and "OMP_NUM_THREADS=1" in note
    assert "OMP_NUM_THREADS" not in os.environ
    machine(4.0)
    threads.report_busy_cores()
    assert not capsys.readouterr().err
