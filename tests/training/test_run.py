"""train(): what a run leaves in its directory."""

from pathlib import Path

import pytest
from PIL.Image import Image
from torch import Tensor

from minimagen.draws import Draws
from minimagen.imagen import Imagen
from minimagen.images import Batch
from minimagen.networks.unet import Block
from minimagen.shapes.dataset import ShapesDataset
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.training.run import train
from minimagen.training.trainer import Trainer
from tests.checkpoints import load_checkpoint
from tests.conftest import HashTextEncoder

TESTING = Path(__file__).parents[2] / "parameters" / "testing"

pytestmark = pytest.mark.usefixtures("one_thread")


def averages(directory: TrainingDirectory, step: int) -> dict[str, Tensor]:
    tensors = load_checkpoint(directory.checkpoint("unet_0", step)).tensors
    return {k.removeprefix("ema."): t for k, t in tensors.items() if k.startswith("ema.")}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(t.equal(other[name]) for name, t in one.items())


class ClosedBoard:
    def __init__(self) -> None:
        self.closed = 0

    def log(self, values: dict[str, float], step: int) -> None:
        raise OSError("the board is full")

    def show(self, name: str, image: Image, step: int) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


def test_the_board_is_closed_when_a_run_stops_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = ClosedBoard()
    monkeypatch.setattr("minimagen.training.tracking.open_board", lambda *_: board)
    imagen_config, training, data = read_parameters(TESTING)
    training = training.replace(sample_captions=("a red star",))
    imagen = Imagen(imagen_config, HashTextEncoder(24))
    with pytest.raises(OSError, match="the board is full"):
        train(imagen, ShapesDataset(size=32), training, data=data, output=tmp_path / "run")
    assert board.closed == 1


def test_the_best_weights_and_the_final_ones_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation 0.2, 0.1 after 2 and 4 steps, 0.15 at the end; resumed, 0.12 beats no record."""
    losses = {2: 0.2, 4: 0.1, 6: 0.15, 8: 0.12}
    monkeypatch.setattr(Trainer, "validate", lambda trainer, _: losses[trainer.step])
    imagen_config, training, data = read_parameters(TESTING)
    training = training.replace(steps=6, chckpt_num=2, sample_num=100, batch_size=2)
    training = training.replace(sample_captions=("a red star",))
    data = data.replace(valid_num=2)

    def run(name: str, steps: int, resume: TrainingDirectory | None = None) -> TrainingDirectory:
        return train(
            Imagen(imagen_config, HashTextEncoder(24)),
            ShapesDataset(size=32),
            training.replace(steps=steps),
            data=data,
            output=tmp_path / name,
            stages=[0],
            device="cpu",
            resume=resume,
        )

    first = run("first", 6)
    for path, step in ((first.best_weights("unet_0"), 4), (first.weights("unet_0"), 6)):
        weights = load_weights(path)
        assert weights.state["step"] == step
        assert equal(weights.tensors, averages(first, step))
    longer = run("longer", 8, first)
    assert longer.best_weights("unet_0").read_bytes() == first.best_weights("unet_0").read_bytes()
    assert load_weights(longer.weights("unet_0")).state["step"] == 8


def test_what_saves_memory_reaches_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches and recomputed activations change no result, so that results do not show it."""
    pieces, loss = [], DiffusionStage.loss

    def counted(stage: DiffusionStage, batch: Batch, draws: Draws) -> Tensor:
        pieces.append((len(batch), stage.training))
        return loss(stage, batch, draws)

    monkeypatch.setattr(DiffusionStage, "loss", counted)
    imagen_config, training, data = read_parameters(TESTING)
    imagen = Imagen(imagen_config, HashTextEncoder(24))
    how = training.replace(steps=1, batch_size=2, accum_iter=2, activation_checkpointing=True)
    how = how.replace(sample_captions=("a red star",))
    train(
        imagen, ShapesDataset(size=32), how, data=data.replace(valid_num=2),
        output=tmp_path / "run", stages=[0], device="cpu",
    )  # fmt: skip
    assert [size for size, training in pieces if training] == [1, 1]
    blocks = [each for each in imagen.stages[0].modules() if isinstance(each, Block)]
    assert blocks and all(block.recompute for block in blocks)
