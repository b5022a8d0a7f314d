"""The benchmark of sampling beside a training: what it counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import beside, data_tables
from minimagen.stages.diffusion import DiffusionStage
from minimagen.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread_in_module")


def test_only_steps_in_the_window_are_counted() -> None:
    assert beside.rate([0.5, 1.0, 1.5, 2.0, 3.0, 3.5], begun=1.0, ended=3.0) == 3 / 2


class Enough(Exception):
    """The work has gone on for long enough."""


@pytest.mark.parametrize("name", beside.WORK)
def test_work_goes_on_until_it_is_ended_and_reports_each_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "use_free_cores", lambda: None)  # torch is imported already
    case = {"preset": "parameters/testing", "directory": "tests/golden/trained", "batch": 2}
    calls: list[str] = []
    for kind, method in ((Trainer, "train_step"), (DiffusionStage, "sample")):
        monkeypatch.setattr(kind, method, counted(getattr(kind, method), calls))
    reports: list[list[str]] = []

    def done() -> None:
        reports.append(calls.copy())
        if len(reports) == 3:
            raise Enough

    with pytest.raises(Enough):
        beside.WORK[name](case, done)
    each = ["train_step"] if name == "train" else ["sample", "sample"]  # of two stages
    assert reports == [each, 2 * each, 3 * each]


def counted(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """Return the function, which adds its name to ``calls``."""

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(function.__name__)
        return function(*arguments, **named)

    return call


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
