"""A run logs its warnings when they matter, each once."""

import math
from pathlib import Path

import pytest

from minimagen.imagen import Imagen
from minimagen.shapes.dataset import ShapesDataset
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.checkpoint import read_header
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.training.run import train
from minimagen.training.tracking import Bar
from minimagen.training.trainer import Trainer
from tests.conftest import HashTextEncoder

TESTING = Path(__file__).parents[2] / "parameters" / "testing"

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = {"steps": 4, "batch_size": 2, "chckpt_num": 1, "sample_num": 100}
SHORT |= {"sample_captions": ("a red star",)}


class Few:
    """Eight images."""

    def __init__(self) -> None:
        self._drawn = ShapesDataset(size=32)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        return self._drawn[index]


def logged(output: Path, dataset: object, **changes: object) -> list[str]:
    """The warnings of a run."""
    imagen_config, training, data = read_parameters(TESTING)
    train(
        Imagen(imagen_config, HashTextEncoder(24)),
        dataset,  # type: ignore[arg-type]
        training.replace(**SHORT | changes),
        data=data.replace(valid_num=2),
        output=output,
        device="cpu",
    )
    lines = (output / "training_progress.txt").read_text().splitlines()
    return [line.partition("WARNING: ")[2] for line in lines if "WARNING" in line]


def test_many_epochs_are_counted_where_images_have_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minimagen.advice.EPOCHS", 1)
    found = [line for line in logged(tmp_path / "few", Few()) if "see each" in line]
    assert [line.partition(";")[0] for line in found] == [
        f"stage {i} will see each of the 7 images 1 times" for i in range(2)
    ]
    assert not any("see each" in line for line in logged(tmp_path / "many", ShapesDataset(size=32)))


def test_memorizing_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training loss falls with every step; validation rises after the second."""
    falling = iter(range(100, 0, -1))

    def update(bar: Bar, losses: list[float]) -> None:
        bar.loss = float(next(falling))

    monkeypatch.setattr(Bar, "update", update)
    losses = {1: 0.3, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4, 6: 0.5}
    monkeypatch.setattr(Trainer, "validate", lambda trainer, _: losses[trainer.step])
    found = [x for x in logged(tmp_path / "run", Few(), steps=6) if "memorizes" in x]
    assert [line.partition(" from")[0] for line in found] == [
        f"stage {i} memorizes: since step 2 its validation loss rose" for i in range(2)
    ]


def test_a_validation_that_is_no_number_hides_no_better_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {1: 0.3, 2: math.nan, 3: 0.1, 4: 0.2}
    monkeypatch.setattr(Trainer, "validate", lambda trainer, _: losses[trainer.step])
    logged(tmp_path / "run", Few(), steps=4)
    best = TrainingDirectory(tmp_path / "run").best_weights("unet_0")
    assert read_header(best)["step"] == 3


@pytest.mark.parametrize(("ratio", "warned"), [(1.5, True), (0.5, False), (None, False)])
def test_super_resolution_is_measured_when_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float | None, warned: bool
) -> None:
    asked = []

    def measured(stage: DiffusionStage, *_: object) -> float | None:
        asked.append(stage.index)
        return ratio if stage.index else None

    monkeypatch.setattr(DiffusionStage, "error_ratio", measured)
    found = [x for x in logged(tmp_path / "run", ShapesDataset(size=32)) if "undertrained" in x]
    assert asked == [0, 1]
    assert len(found) == warned and all("stage 1" in x and "1.50 times" in x for x in found)
