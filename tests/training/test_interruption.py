"""A signal is obeyed while the run waits for data, in this process and in workers."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from minimagen import Imagen, TrainingConfig, train
from minimagen.config import ImagenConfig
from minimagen.data.indexed import BaseDataset
from minimagen.sample import Sample
from minimagen.storage.directory import read_parameter_values
from minimagen.training.interruption import Interrupted, StopSignals

TESTING = Path(__file__).parents[2] / "parameters" / "testing"


def later(seconds: float, *signums: int) -> threading.Thread:
    """Send signals to this process."""

    def send() -> None:
        for signum in signums:
            time.sleep(seconds)
            os.kill(os.getpid(), signum)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def endless_wait() -> Iterator[int]:
    yield 0
    time.sleep(60)
    yield 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("launched", [False, True])
def test_waiting_for_the_next_item_ends(signum: int, launched: bool) -> None:
    before = signal.getsignal(signum)
    with StopSignals(launched) as signals:
        sender = later(0.2, signum)
        assert list(signals.until_stopped(endless_wait())) == [0]
        sender.join()
        assert signals.received == signum
        assert list(signals.until_stopped([1])) == []
    assert signal.getsignal(signum) == before


def test_work_between_two_items_is_finished() -> None:
    with StopSignals() as signals:
        done = []
        for item in signals.until_stopped(range(5)):
            os.kill(os.getpid(), signal.SIGINT)
            done.append(item)
        assert done == [0] and signals.received == signal.SIGINT


class Stuck(BaseDataset):
    """Data that does not arrive; the run is asked to stop while it waits."""

    sizes = {(32, 32): 64}  # type: ignore[assignment]

    def __init__(self) -> None:
        self.run = os.getpid()

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((32, 32, 3), np.uint8), "black")

    def draw(self, index: int, rng: Random) -> Sample:
        os.kill(self.run, signal.SIGTERM)
        time.sleep(60)
        return self[index]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_without_data_obeys_the_first_signal(
    tmp_path: Path, text_encoder: Any, workers: int
) -> None:
    config = ImagenConfig.read(read_parameter_values(TESTING)["imagen"], "testing")
    training = TrainingConfig(steps=2, batch_size=2, num_workers=workers, sample_captions=["black"])
    imagen = Imagen(config, text_encoder)
    with pytest.raises(Interrupted, match="after step 0 of stage 0; everything is saved"):
        train(imagen, Stuck(), training, output=tmp_path / "run", device="cpu")
    assert list((tmp_path / "run" / "tmp").iterdir())
