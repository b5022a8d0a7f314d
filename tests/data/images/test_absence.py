"""Data that is unavailable for a while is waited for; a missing image is still a bad one."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minimagen.data.dataset import BadSampleError, Row
from minimagen.data.images import absence
from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import Framing
from minimagen.data.loading.batches import training_batches
from minimagen.data.open import load_dataset
from minimagen.data.sources import shards
from minimagen.data.sources.shards import TarStream
from minimagen.errors import UserError
from minimagen.images import Batch

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    here = tmp_path / "images"
    here.mkdir()
    for i in range(40):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(here / f"{i:02}.png")
        (here / f"{i:02}.txt").write_text(f"red {i}")
    return here


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Any]]:
    """What happens during each pause, instead of waiting; afterwards nothing does."""
    events: list[Callable[[], Any]] = []
    monkeypatch.setattr(absence.time, "sleep", lambda _: events and events.pop(0)())
    return events


def uncached(folder: Path) -> ImageDataset:
    """Every image is read again each time."""
    return ImageDataset(load_dataset(folder).table, Framing((8, 8)), cache_bytes=0)


def batches(dataset: Any, encode: Any, workers: int = 0) -> list[Batch]:
    return list(training_batches(dataset, encode, 4, 0, 0, 30, workers))


def test_a_folder_that_vanishes_and_comes_back_changes_nothing(
    folder: Path, text_encoder: Any, caplog: pytest.LogCaptureFixture, pauses: list
) -> None:
    whole = batches(uncached(folder), text_encoder)
    away = folder.with_name("away")
    dataset = uncached(folder)
    running = training_batches(dataset, text_encoder, 4, 0, 0, 30)
    # Captions of 128 batches are encoded together, so the folder goes away while they are read.
    read = dataset.files.read
    count = 0

    def vanishing(path: Path) -> bytes:
        nonlocal count
        count += 1
        if count == 50:
            folder.rename(away)
        return read(path)

    dataset.files.read = vanishing  # type: ignore[method-assign]
    pauses += [lambda: None, lambda: None, lambda: away.rename(folder)]
    with caplog.at_level(logging.WARNING):
        for a, b in zip(whole, running, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.text_embeds, b.text_embeds)
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [
        "the data is unavailable",
        "the data is back after 4 s",
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_stays_away_ends_the_run_in_one_line(
    folder: Path, text_encoder: Any, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(absence, "PATIENCE", 0.3)
    monkeypatch.setattr(absence, "PAUSES", (0.1, 0.2))
    dataset = uncached(folder)
    assert dataset[0].caption == "red 0"
    folder.rename(folder.with_name("away"))
    with pytest.raises(UserError, match="the data has been unavailable for 0 s.*`resume`") as error:
        batches(dataset, text_encoder, workers)
    assert "\n" not in str(error.value)


def test_one_missing_image_is_bad_at_once(folder: Path, pauses: list) -> None:
    dataset = uncached(folder)
    assert dataset[0].caption == "red 0"
    (folder / "01.png").unlink()
    pauses.append(lambda: pytest.fail("one image is not waited for"))
    with pytest.raises(BadSampleError, match="01.png: No such file"):
        dataset[1]


def test_where_nothing_could_ever_be_read_nobody_waits(folder: Path, pauses: list) -> None:
    dataset = uncached(folder)
    folder.rename(folder.with_name("away"))
    pauses.append(lambda: pytest.fail("it was never there"))
    with pytest.raises(BadSampleError, match="No such file"):
        dataset[0]


def test_the_longest_wait_is_as_long_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(absence.time, "sleep", slept.append)
    away = absence.Absence()
    with pytest.raises(UserError, match="unavailable for 300 s"):
        while True:
            away.wait("gone")
    assert sum(slept) == absence.PATIENCE and max(slept) == absence.PAUSES[1]
    assert slept[:3] == [0.5, 1.0, 2.0]


def test_shards_that_vanish_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list, caplog: Any
) -> None:
    row = Row(b"", ("a",), "row")

    def read(shard: str, *_: str) -> Any:
        if not Path(shard).exists():
            raise shards.ShardLostError(f"{shard}: No such file")
        yield from [row] * 3

    monkeypatch.setattr(shards, "read_shard", read)
    monkeypatch.setattr(shards, "BUFFER", 0)
    shard = tmp_path / "0.tar"
    shard.touch()
    rows = TarStream((str(shard),)).shuffled(0, 0, 1)
    assert [next(rows) for _ in range(3)] == [row] * 3
    shard.unlink()
    pauses += [lambda: None, shard.touch]
    with caplog.at_level(logging.WARNING):
        found = [next(rows) for _ in range(10)]
    bad = [row for row in found if isinstance(row, BadSampleError)]
    assert len(bad) == shards.LOST_IN_A_ROW - 1  # reported as bad; then the source is unavailable
    assert "the data is back after 2 s" in caplog.text
    shard.unlink()
    with pytest.raises(UserError, match="has been unavailable for 300 s"):
        list(rows)
