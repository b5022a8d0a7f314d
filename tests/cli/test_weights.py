"""``--WEIGHTS`` chooses among the averages of a run; ``--KEEP_CHECKPOINTS`` how many it keeps."""

from pathlib import Path

import pytest
from torch import Tensor

from minimagen import Imagen, UserError
from minimagen.__main__ import main as minimagen
from minimagen.cli import inference, train
from minimagen.storage.directory import TrainingDirectory
from tests.checkpoints import load_checkpoint
from tests.cli.conftest import QUICK, Refused, contents, same

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = {0: [1, 2, 3], 1: [1, 2]}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 and 2 steps with all its checkpoints, the best of stage 0 after 2."""
    path = tmp_path_factory.mktemp("kept") / "training_kept"
    flags = ["--STEPS", "3,2", "-cn", "1", "--KEEP_CHECKPOINTS", "all", "-o", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        losses = iter([0.3, 0.1, 0.2, 0.3, 0.2])
        patch.setattr("minimagen.training.trainer.Trainer.validate", lambda *_: next(losses))
        assert train.entry([*QUICK, *flags]) == 0
    return path


def average(directory: Path, stage: int, step: int) -> dict[str, Tensor]:
    folder = TrainingDirectory(directory).checkpoint(f"unet_{stage}", step)
    tensors = load_checkpoint(folder).tensors
    return {k.removeprefix("ema."): t for k, t in tensors.items() if k.startswith("ema.")}


@pytest.mark.parametrize(
    ("weights", "steps"),
    [
        ("final", [3, 2]),
        ("best", [2, 2]),
        (1, [1, 1]),
        ("2", [2, 2]),
        (("best", 1), [2, 1]),
        ([3, "final"], [3, 2]),
    ],
)
def test_the_chosen_weights_are_the_averages_after_their_step(
    kept: Path, weights: str, steps: list[int]
) -> None:
    imagen = Imagen.from_directory(kept, weights=weights)
    for i, step in enumerate(steps):
        assert same(dict(imagen.stages[i].named_parameters()), average(kept, i, step))


def test_final_weights_are_the_default(kept: Path) -> None:
    for i, stage in enumerate(Imagen.from_directory(kept).stages):
        assert same(dict(stage.named_parameters()), average(kept, i, STEPS[i][-1]))


def test_inference_and_evaluate_sample_from_the_chosen_weights(
    kept: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["-d", str(kept), "-c", "a star", "-t", "2", "--SEED", "1", "--DEVICE", "cpu"]
    images = {}
    for name, flags in {"default": [], "final": ["-w", "final"], "first": ["-w", "1"],
                        "own": ["--WEIGHTS", "3,final"]}.items():  # fmt: skip
        assert inference.entry([*argv, *flags, "--NO_METADATA", "-o", name]) == 0
        images[name] = contents(here / name / "generated_images")[
            here / name / "generated_images" / "image_0.png"
        ]
    assert images["default"] == images["final"] == images["own"] != images["first"]
    sampled = []
    for flags in ([], ["--WEIGHTS", "final"], ["-w", "1"]):
        capsys.readouterr()
        count = ["-n", "4", "-t", "1", "--DEVICE", "cpu", "--SHEET", f"{len(sampled)}.png"]
        assert minimagen(["evaluate", "-d", str(kept), *count, *flags]) == 0
        sampled.append(capsys.readouterr().out.splitlines()[1:])  # the first has the time
    assert sampled[0] == sampled[1] != sampled[2]


def test_weights_that_are_not_there_are_one_line_with_those_that_are(
    kept: Path, trained: Path, refused: Refused
) -> None:
    argv = ["-c", "a star", "-d"]
    words = ["no checkpoint of unet_1 after step 3", "keeps 1, 2", "give --WEIGHTS one of those"]
    refused(inference.entry, [*argv, kept, "--WEIGHTS", "3"], *words)
    refused(inference.entry, [*argv, kept, "-w", "0"], "unet_0 after step 0", "keeps 1, 2, 3")
    refused(inference.entry, [*argv, kept, "-w", "1,2,3"], "3 values for 2 stages")
    refused(inference.entry, [*argv, kept, "-w", "newest"], "final, best or the step", "'newest'")
    (trained / "state_dicts" / "unet_0.best.safetensors").unlink()
    refused(inference.entry, [*argv, trained, "-w", "best"], "no unet_0.best", "--WEIGHTS final")
    with pytest.raises(UserError, match="2 values for 3 stages|3 values for 2 stages"):
        Imagen.from_directory(kept, weights=(1, 1, 1))


def test_a_damaged_checkpoint_is_not_sampled_from(trained: Path, refused: Refused) -> None:
    (file,) = (trained / "tmp" / "unet_0_step_00000001").glob("tensors.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    refused(inference.entry, ["-c", "a star", "-d", trained, "-w", "1"], "is not what was written")


@pytest.mark.parametrize(("flags", "steps"), [([], [2, 3]), (["-kc", "1"], [3])])
def test_a_run_keeps_as_many_checkpoints_as_asked(
    here: Path, flags: list[str], steps: list[int]
) -> None:
    argv = [*QUICK, "-sg", "0", "--STEPS", "3", "-cn", "1", "-o", "mine", *flags]
    assert train.entry(argv) == 0
    names = {path.name for path in (here / "mine" / "tmp").glob("unet_0_step_*")}
    assert names == {f"unet_0_step_{step:08d}" for step in steps}


def test_all_checkpoints_are_kept_if_asked_for(kept: Path) -> None:
    names = {path.name for path in (kept / "tmp").glob("unet_*_step_*")}
    assert names == {f"unet_{i}_step_{step:08d}" for i in STEPS for step in STEPS[i]}
