"""The benchmark of sampling beside a training: what it counts."""

from pathlib import Path

import pytest

from benchmarks import beside, data_tables


def test_only_steps_in_the_window_are_counted() -> None:
    assert beside.rate([0.5, 1.0, 1.5, 2.0, 3.0, 3.5], begun=1.0, ended=3.0) == 3 / 2


def test_work_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    case = {"seconds": beside.QUICK_SECONDS}
    with (
        pytest.raises(RuntimeError, match="nothing did not start"),
        beside.working("nothing", case, tmp_path / "times"),
    ):
        raise AssertionError("it started")


def test_the_table_has_what_each_keeps() -> None:
    row = {
        "alone": {"train": 4.0, "sample": 2.0},
        "beside": {"train": 3.0, "sample": 1.0},
        "kept": {"train": 0.75, "sample": 0.5},
    }
    _, training, sampling = data_tables.beside([row])
    assert training == ("training, steps", "4.00", "3.00", "0.75")
    assert sampling[-1] == "0.50"
