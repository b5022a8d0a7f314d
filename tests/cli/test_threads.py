"""Threads for the cores that are free."""

import os

import pytest

from minimagen.cli import threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine of 4 cores, of which some are free."""

    def make(free: int) -> None:
        monkeypatch.setattr(threads, "free_cores", lambda: free)
        monkeypatch.setattr(threads, "usable_cores", lambda: 4)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return make


@pytest.mark.parametrize(("free", "number"), [(1, "1"), (3, "3"), (4, None)])
def test_sampling_takes_a_thread_for_each_free_core(machine, free, number):
    machine(free)
    threads.use_free_cores()
    assert os.environ.get("OMP_NUM_THREADS") == number


def test_a_number_that_was_chosen_stays(machine, monkeypatch):
    machine(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.use_free_cores()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_training_reports_busy_cores_and_chooses_nothing(machine, capsys):
    machine(1)
    threads.report_busy_cores()
    assert "use 3 of 4 cores" in (note := capsys.readouterr().err) and "OMP_NUM_THREADS=1" in note
    assert "OMP_NUM_THREADS" not in os.environ
    machine(4)
    threads.report_busy_cores()
    assert not capsys.readouterr().err
