"""How many processes read: by the device, the cores and the data, with the reason."""

from types import SimpleNamespace
from typing import Any

import pytest

from minimagen import ShapesDataset
from minimagen.data.loading import workers
from minimagen.data.loading.workers import choose_workers


def dataset(count: int | None, side: int, **description: Any) -> Any:
    sizes = {(side, side): count}
    files = {"crop": "centre"} | description  # as `load_dataset` describes them
    return SimpleNamespace(sizes=sizes, endless=False, description=files)


@pytest.fixture(autouse=True)
def on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.sys, "platform", "linux")


def test_a_cpu_that_trains_is_left_its_cores() -> None:
    assert choose_workers(dataset(10**7, 256), "cpu", 64, 1) == (0, "the network trains on cpu")


def test_of_a_class_of_ones_own_nothing_stays_in_memory() -> None:
    assert choose_workers(dataset(100, 64, crop=None), "cuda", 16, 1).number == 8


def test_small_data_stays_in_memory_and_needs_no_workers() -> None:
    """2^28 bytes hold 21,845 images of 64 x 64 x 3."""
    assert choose_workers(dataset(21_845, 64), "cuda", 16, 1).number == 0
    assert choose_workers(dataset(21_846, 64), "cuda", 16, 1) == (8, "16 cores for 1 rank")


def test_what_no_memory_holds_is_read_by_the_cores_of_each_rank() -> None:
    assert choose_workers(dataset(None, 64), "cuda", 32, 8) == (3, "32 cores for 8 ranks")
    assert choose_workers(dataset(100, 64, crop="random"), "cuda", 6, 1).number == 5
    assert choose_workers(ShapesDataset(size=64, epoch_size=10), "cuda", 4, 1).number == 3
    assert choose_workers(dataset(None, 64), "cuda", 8, 8).number == 0
