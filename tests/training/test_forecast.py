"""How long a run takes: the arithmetic of the time left."""

from types import SimpleNamespace
from typing import Any

import pytest

from minimagen.training.forecast import Forecast, duration


def plan(minutes: float | None = None) -> Any:
    """Three learners, of which the first and the last train."""
    return SimpleNamespace(
        chosen=[0, 2],
        steps=(100, 7, 40),
        config=SimpleNamespace(minutes=minutes),
        seconds=lambda i: {0: 90.0, 2: 30.0}[i],
    )


def test_later_learners_take_their_steps_at_the_pace_of_their_forward_passes() -> None:
    forecast = Forecast(plan(), {0: 0.1, 2: 0.4})
    # learner 2: 40 steps, each four times as long as the 0.5 s of learner 0
    assert forecast.left(0, own=25.0, pace=0.5) == pytest.approx(25.0 + 40 * 4 * 0.5)
    assert forecast.left(2, own=11.0, pace=2.0) == 11.0


def test_what_was_not_timed_is_not_known() -> None:
    assert Forecast(plan(), {}).left(0, own=25.0, pace=0.5) is None
    assert Forecast(plan(), {}).left(2, own=11.0, pace=2.0) == 11.0


def test_minutes_are_known_whatever_the_pace() -> None:
    assert Forecast(plan(minutes=2.0), {}).left(0, own=60.0, pace=9.0) == 90.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5940.0, "99 min"), (5970.0, "1.7 h")],
)
def test_a_time_has_the_unit_that_one_would_say(seconds: float, text: str) -> None:
    assert duration(seconds) == text
