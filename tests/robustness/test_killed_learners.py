"""Kill a run inside a step of each learner and resume it: the weights are the same to the bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minimagen import DataConfig, ImagenConfig, TrainingConfig
from minimagen.cli import train
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import Parameters, TrainingDirectory, write_parameters
from tests.robustness.runs import ROOT
from tests.training.test_new_learners import CASCADES

STEPS, BETWEEN = 5, 2  # of each learner; steps between checkpoints
INSIDE = 4  # the step of a learner that is not survived

pytestmark = pytest.mark.slow
LEARNERS = [
    (name, learner)
    for name, values in CASCADES.items()
    for learner in ImagenConfig.read({"image_sizes": [16]} | values, name).learner_names
]


def command(folder: Path, output: Path) -> list[str]:
    return ["--PARAMETERS", str(folder), "--DEVICE", "cpu", "--OUTPUT", str(output)]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every cascade, trained without a fault."""
    torch.set_num_threads(1)  # as the killed processes have: bits may depend on it
    found = {}
    for name, values in CASCADES.items():
        folder = tmp_path_factory.mktemp(name)
        training = TrainingConfig(
            batch_size=4, steps=STEPS, chckpt_num=BETWEEN, sample_captions=("red",),
            precision="fp32",
        )  # fmt: skip
        column = "color" if name == "labels" else "text"
        data = DataConfig(valid_num=4, epoch_size=64, caption_column=column)
        config = ImagenConfig.read({"image_sizes": [16]} | values, name)
        write_parameters(folder / "parameters", Parameters(config, training, data))
        assert train.entry(command(folder / "parameters", folder / "whole")) == 0
        found[name] = folder
    return found


@pytest.mark.parametrize(("name", "learner"), LEARNERS)
def test_a_kill_in_a_step_of_each_learner(
    wholes: dict[str, Path], name: str, learner: str, tmp_path: Path
) -> None:
    parameters, output = wholes[name] / "parameters", tmp_path / "killed"
    names = ImagenConfig.read({"image_sizes": [16]} | CASCADES[name], name).learner_names
    fault = ["killed", str(STEPS * names.index(learner) + INSIDE)]
    process = subprocess.run(
        [sys.executable, "-m", "tests.robustness.injected", *fault, *command(parameters, output)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    killed = TrainingDirectory(output)
    assert killed.checkpoint(learner, BETWEEN).is_dir()
    assert not killed.checkpoint(learner, 2 * BETWEEN).exists()
    assert train.entry(["-rd", str(output), "--IN_PLACE", "--DEVICE", "cpu"]) == 0
    for each in names:
        one, two = (
            load_weights(directory.weights(each)).tensors
            for directory in (killed, TrainingDirectory(wholes[name] / "whole"))
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), each
