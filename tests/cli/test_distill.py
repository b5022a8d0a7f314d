"""train.py --DISTILL: a directory whose stages sample in few steps, in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from minimagen import Imagen
from minimagen.cli import inference, train
from minimagen.storage.directory import TrainingDirectory
from tests.cli.conftest import Refused, same, weights

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = ["--DISTILL", "training_mine", "-t", "2,1", "--VALID_NUM", "2", "--DEVICE", "cpu"]


@pytest.fixture
def many_steps(trained: Path) -> Path:
    """A trained directory whose stages sample in 4 steps, the first one guided."""
    for i in range(2):
        change(trained / "parameters" / f"unet_{i}.json", timesteps=4, guidance_scale=3.0 - 2 * i)
    return trained


def change(path: Path, **sampling: Any) -> None:
    values = json.loads(path.read_text())
    values["sampling"] |= sampling
    path.write_text(json.dumps(values))


def test_a_distilled_directory_samples_in_few_steps(many_steps: Path) -> None:
    assert train.entry([*FEW, "--STEPS", "2", "-o", "few"]) == 0
    imagen = Imagen.from_directory("few")
    calls = [0, 0]
    for i, stage in enumerate(imagen.stages):

        def count(_: Any, given: tuple[Tensor, ...], i: int = i) -> None:
            calls[i] += len(given[0])

        stage.unet.register_forward_pre_hook(count)
    imagen.sample(["a red star"], seed=1)
    assert calls == [2, 1]
    assert inference.entry(["-d", "few", "-c", "a red star", "-o", "sampled"]) == 0
    for i in range(2):
        assert not same(weights("few", i), weights(many_steps, i))
    assert "the teacher is training_mine" in Path("few/training_progress.txt").read_text()


def test_what_belongs_to_the_data_of_the_teacher_is_not_asked_of_other_data(trained: Path) -> None:
    file = trained / "parameters" / "data.json"
    own = {"caption_column": "color", "max_samples": 7}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    for name, column, most in (("shapes", "color", 7), ("digits", "text", None)):
        argv = ["--DISTILL", "training_mine", "--DATASET", name, "--STEPS", "1"]
        data = train.settings_of(train.parse_flags(argv)).parameters().data
        assert (data.caption_column, data.max_samples) == (column, most)


def test_the_super_resolution_alone(many_steps: Path) -> None:
    assert train.entry([*FEW, "-t", "1", "--STEPS", "2", "-sg", "1", "-o", "few"]) == 0
    assert same(weights("few", 0), weights(many_steps, 0))
    sampling = [stage.sampling for stage in Imagen.from_directory("few").config.stages]
    assert [(s.sampler, s.timesteps, s.guidance_scale) for s in sampling] == [
        ("dpm++", 4, 3.0),
        ("ddim", 1, 1.0),
    ]


def test_a_resumed_run_is_the_uninterrupted_one_without_the_teachers_directory(
    many_steps: Path,
) -> None:
    assert train.entry([*FEW, "--STEPS", "4", "-cn", "2", "-o", "whole"]) == 0
    stopped = Path(shutil.copytree("whole", "stopped"))
    shutil.rmtree(stopped / "tmp" / "unet_0_step_00000004")
    for left in ("unet_1_step_00000002", "unet_1_step_00000004"):
        shutil.rmtree(stopped / "tmp" / left)
    shutil.rmtree(stopped / "state_dicts")
    shutil.rmtree(many_steps)
    assert train.entry(["-rd", "stopped", "-o", "resumed"]) == 0
    for i in range(2):
        assert same(weights("whole", i), weights("resumed", i))
    assert train.entry(["-rd", "stopped", "--IN_PLACE"]) == 0
    assert same(weights("whole", 1), weights("stopped", 1))


def test_a_distilled_stage_teaches_a_divisor_of_its_steps(
    many_steps: Path, refused: Refused
) -> None:
    assert train.entry([*FEW, "--STEPS", "1", "-t", "4,2", "-o", "four"]) == 0
    again = ["--DISTILL", "four", "--STEPS", "1", "--VALID_NUM", "2", "--DEVICE", "cpu"]
    assert train.entry([*again, "-t", "2,1", "-o", "two"]) == 0
    assert not same(weights("two", 0), weights("four", 0))
    words = "distilled to 4 steps can teach a divisor of them, not 3"
    refused(train.entry, [*again, "-t", "3,1", "-o", "three"], words)
    refused(train.entry, [*again, "-t", "4,2", "-o", "same"], "already samples in so many steps")


def test_stages_are_distilled_one_after_the_other(many_steps: Path, refused: Refused) -> None:
    """Resumed, only the stage that was distilled goes on; the next run takes the other one."""
    quick = ["--VALID_NUM", "2", "--DEVICE", "cpu"]
    second = ["--DISTILL", "training_mine", "-t", "1", "-sg", "1", "-st", "2", *quick]
    assert train.entry([*second, "-o", "one"]) == 0
    assert train.entry(["-rd", "one", "-st", "3", "-o", "longer"]) == 0
    assert same(weights("longer", 0), weights(many_steps, 0))
    assert not same(weights("longer", 1), weights("one", 1))
    words = "stage 0 has nothing to learn from longer/teacher"
    refused(train.entry, ["-rd", "longer", "-sg", "0", "-st", "4"], words)
    first = ["--DISTILL", "longer", "-t", "2", "-sg", "0", *quick]
    assert train.entry([*first, "--MINUTES", "0.02", "-o", "both"]) == 0
    assert same(weights("both", 1), weights("longer", 1))
    assert not same(weights("both", 0), weights("longer", 0))
    asked = [stage.distilled_steps for stage in Imagen.from_directory("both").config.stages]
    assert asked == [2, 1]


def test_what_would_be_distilled_is_printed(
    many_steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.entry([*FEW, "--STEPS", "2", "--PRINT_CONFIG"]) == 0
    printed = capsys.readouterr().out
    assert "imagen.stages.0.kind = distilled  (--DISTILL)" in printed.replace("'", "")
    assert "imagen.stages.0.steps = 2  (--DISTILL)" in printed
    assert "imagen.stages.0.sampling.guidance_scale = 1.0  (--DISTILL)" in printed
    assert "imagen.stages.0.unet.dim = 16  (training_mine)" in printed
    assert train.entry([*FEW, "--STEPS", "2", "--DRY_RUN"]) == 0
    assert "and a teacher (--DISTILL)" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in Path().iterdir()] == ["training_mine"]


def test_what_cannot_be_distilled_is_reported(many_steps: Path, refused: Refused) -> None:
    asked = [*FEW, "--STEPS", "1"]
    refused(train.entry, FEW, "--DISTILL needs a length", "--EPOCHS, --STEPS, --MINUTES")
    refused(train.entry, [*asked, "-p", "here"], "--DISTILL contradicts --PARAMETERS")
    refused(
        train.entry,
        [*asked, "-rd", "training_mine"],
        "--RESTART_DIRECTORY contradicts --DISTILL",
    )
    refused(train.entry, [*asked, "-s", "64"], "--DISTILL contradicts --IMG_SIDE_LEN")
    refused(train.entry, [*asked, "-t", "2,1,1"], "--TIMESTEPS: 3 values for 2 stages")
    refused(train.entry, [*asked, "-sg", "2"], "there is no stage 2")
    refused(train.entry, ["--DISTILL", "nowhere", "--STEPS", "1"], "no training directory nowhere")
    assert train.entry([*asked, "-o", "few"]) == 0
    words = "stage 0 is to be distilled from a trained one", "--DISTILL"
    refused(train.entry, ["-p", "few/parameters", "--DEVICE", "cpu"], *words)
    words = "stage 0 is distilled: it samples in 2 steps of ddim", "one value per stage"
    refused(inference.entry, ["-d", "few", "-t", "8", "-c", "a star"], *words)
    refused(inference.entry, ["-d", "few", "-g", "3", "-c", "a star"], *words)
    (many_steps / "state_dicts" / "unet_1.safetensors").unlink()
    refused(train.entry, [*asked, "-o", "none"], "no trained weights unet_1.safetensors")


def test_other_cascades_are_no_teachers(many_steps: Path) -> None:
    from minimagen import ShapesDataset, TrainingConfig, UserError
    from minimagen import train as train_in_python

    imagen = Imagen.from_directory(many_steps)
    first = imagen.config.stages[0]
    other = first.replace(unet=first.unet.replace(dim=24)).distilled(2)
    changed = imagen.config.replace(stages=(other, imagen.config.stages[1]))
    shorter = imagen.config.replace(stages=(first.distilled(2),), image_sizes=(16,))
    dataset = ShapesDataset("train", size=32, epoch_size=16)
    teacher = TrainingDirectory(many_steps)
    for config in (changed, shorter):
        with pytest.raises(UserError, match="is no teacher of this cascade"):
            train_in_python(Imagen(config), dataset, TrainingConfig(steps=1), teacher=teacher)
    assert not list(Path().glob("training_2*"))
