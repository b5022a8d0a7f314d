"""May a run be continued? Identities of runs, also of those that earlier versions began."""

import json
from pathlib import Path

import pytest

from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.shapes.dataset import ShapesDataset
from minimagen.storage.checkpoint import save_checkpoint
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.training.plan import Plan
from minimagen.training.resume import check_resumable
from tests.conftest import HashTextEncoder

TESTING = Path(__file__).parents[2] / "parameters" / "testing"
EARLIER = Path(__file__).parent / "earlier" / "state.json"  # of 28 November 2026, --TESTING


def test_the_checkpoint_of_an_earlier_version_is_of_the_same_run(tmp_path: Path) -> None:
    """Its record lacks the fields that came later and equals ours in all others."""
    imagen_config, training, data = read_parameters(TESTING)
    text_encoder = HashTextEncoder(24)
    text_encoder.name = "t5_mini"  # the record has no fingerprint: the name decides
    imagen = Imagen(imagen_config, text_encoder)
    training = training.replace(learners=training.for_learners(2).learners)
    state = json.loads(EARLIER.read_text())
    data = data.replace(epoch_size=64, valid_num=16, max_samples=64)
    training_data = ShapesDataset(size=32, epoch_size=64)
    directory = TrainingDirectory(tmp_path)
    directory.make()
    tensors = {f"model.{n}": p for n, p in imagen.stages[1].named_parameters()}

    def check(**changes: object) -> None:
        changed = data.replace(**changes)
        plan = Plan(imagen, training, changed, [1], training_data, [], []).lasting((4, 4))
        check_resumable(plan, directory)

    save_checkpoint(directory.checkpoint("unet_1", 2), tensors, state)
    check()
    with pytest.raises(UserError, match="data.seed was 0, is 1"):
        check(seed=1)
    del state["run"]
    save_checkpoint(directory.checkpoint("unet_1", 3), tensors, state)
    with pytest.raises(UserError, match="too old"):
        check()
