"""``train.py --FROM``: a new training that starts from the weights of a training directory."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from minimagen import Imagen, ShapesDataset, TrainingConfig
from minimagen import train as train_in_python
from minimagen.cli import inference, train
from minimagen.cli.settings import BUNDLED, PRESETS
from minimagen.data.indexed import as_dataset
from minimagen.data.open import load_dataset
from minimagen.storage.checkpoint import load_weights, save_weights
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.storage.pretrained import fingerprint_of
from minimagen.training.finetuning import Source
from minimagen.training.plan import make_plan
from minimagen.training.processes.alone import Processes
from minimagen.training.trainer import Trainer
from tests.cli.conftest import QUICK, Refused, same, weights

pytestmark = pytest.mark.usefixtures("one_thread")

FROM = ["--FROM", "training_mine", "--DEVICE", "cpu", "-pr", "fp32"]


def log(name: str) -> str:
    return Path(name, "training_progress.txt").read_text()


def training(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path(name, "parameters", "training.json").read_text())
    return values


def losses(name: str, imagen: Imagen, images: Path) -> list[float]:
    """The loss of each stage of ``imagen`` on the first batch of the run ``name``."""
    parameters = read_parameters(Path(name) / "parameters")
    dataset = as_dataset(load_dataset(str(images), (32, 32)))
    config = parameters.training.for_learners(2)
    plan = make_plan(imagen, dataset, config, parameters.data, range(2), Processes())
    return [
        float(plan.trainer(i, imagen.stages[i], 1).train_step(next(plan.batches(i, 0, 1))))
        for i in range(2)
    ]


def test_the_first_losses_are_those_of_the_sources_weights(
    trained: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[int, float] = {}
    step = Trainer.train_step

    def spy(trainer: Trainer, batch: Any) -> Tensor:
        loss = step(trainer, batch)
        found.setdefault(trainer.key, float(loss)) if trainer.step == 1 else None  # type: ignore[arg-type]
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", spy)
        assert train.entry([*FROM, "-ds", str(images), "--STEPS", "2", "-o", "fine"]) == 0
    imagen = Imagen.from_directory(trained)
    assert [found[0], found[1]] == losses("fine", imagen, images)
    random = Imagen(imagen.config, seed=training("fine")["seed"])
    assert [found[0], found[1]] != losses("fine", random, images)


def test_its_parameters_are_the_sources_but_for_those_that_are_given(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-ds", str(images), "--STEPS", "1", "-b", "4", "-lr", "0.01"]
    assert train.entry([*FROM, *flags, "--PRINT_CONFIG"]) == 0
    printed = capsys.readouterr().out
    assert "imagen.stages.0.unet.dim = 16  (training_mine)" in printed
    assert "training.batch_size = 4  (--BATCH_SIZE)" in printed
    assert train.entry([*FROM, *flags, "-o", "fine"]) == 0
    values, before = training("fine"), training("training_mine")
    assert [stage["optim_lr"] for stage in values["learners"]] == [0.01, 0.01]
    assert values["chckpt_num"] == before["chckpt_num"]
    assert before["source"] is None
    source = Imagen.from_directory(trained)
    assert values["source"] == {
        "directory": "training_mine",
        "fingerprint": fingerprint_of(nn.ModuleList(source.stages), "source"),
        "stages": [0, 1],
    }
    for i in range(2):
        assert f"stage {i} starts from the weights of training_mine" in log("fine")


def test_it_learns_one_batch_by_heart(trained: Path, here: Path) -> None:
    folder = here / "one"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (32, 32), (255, 40 * (i < 2), 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("red")
    flags = ["-ds", str(folder), "--STEPS", "100", "-sg", "0", "-cn", "10", "-sn", "100", "-b", "2"]
    assert train.entry([*FROM, *flags, "-f", "0.5", "-o", "fine"]) == 0
    rows = [json.loads(line) for line in Path("fine", "metrics.jsonl").read_text().splitlines()]
    valid = [row["valid_loss"] for row in rows if "valid_loss" in row]
    assert valid[-1] < 0.5 * valid[0]


def test_which_weights_it_starts_from_can_be_chosen(trained: Path) -> None:
    state = load_weights(trained / "state_dicts" / "unet_0.best.safetensors")
    for tensor in state.tensors.values():
        tensor += 1.0
    save_weights(trained / "state_dicts" / "unet_0.best.safetensors", state.tensors, state.state)
    assert (
        train.entry([*FROM, "--WEIGHTS", "best,final", "--STEPS", "1", "-sg", "1", "-o", "a"]) == 0
    )
    assert same(weights("a", 0), state.tensors)
    assert train.entry([*FROM, "--WEIGHTS", "1", "--STEPS", "1", "-sg", "1", "-o", "b"]) == 0
    assert same(weights("b", 0), weights(trained, 0))


def test_stages_that_the_source_lacks_start_at_random(trained: Path) -> None:
    (trained / "state_dicts" / "unet_1.safetensors").unlink()
    assert train.entry([*FROM, "--STEPS", "1", "-o", "fine"]) == 0
    assert "stage 1 starts at random: training_mine has no weights of it" in log("fine")
    assert training("fine")["source"]["stages"] == [0]


@pytest.mark.parametrize("stage", [0, 1])
def test_a_resumed_run_is_the_uninterrupted_one_without_the_source(
    trained: Path, stage: int
) -> None:
    """Stopped in stage 0, or before stage 1 has begun; the source is gone."""
    assert train.entry([*FROM, "--STEPS", "4", "-cn", "2", "-kc", "all", "-o", "whole"]) == 0
    stopped = Path(shutil.copytree("whole", "stopped"))
    for left in ([4], [2, 4])[stage]:
        shutil.rmtree(stopped / "tmp" / f"unet_{stage}_step_{left:08d}")
    for path in (stopped / "state_dicts").glob(f"unet_{stage}.*"):
        path.unlink()
    shutil.rmtree(trained)
    assert train.entry(["-rd", "stopped", "-o", "resumed"]) == 0
    for i in range(2):
        assert same(weights("whole", i), weights("resumed", i))
    assert training("resumed")["source"] == training("whole")["source"]
    assert f"stage {stage} continues after step {(2, 0)[stage]}" in log("resumed")


def test_jobs_of_single_stages_share_a_directory_that_samples_from_the_start(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*argv: str) -> str:
        capsys.readouterr()
        assert train.entry([*argv]) == 2
        return capsys.readouterr().err

    assert train.entry([*FROM, "--STEPS", "2", "-o", "whole"]) == 0
    assert train.entry([*FROM, "--STEPS", "2", "-sg", "0", "-o", "shared"]) == 0
    assert same(weights("shared", 1), weights(trained, 1))
    assert inference.entry(["-d", "shared", "-c", "a star", "-t", "1", "-o", "out"]) == 0
    again = [*FROM, "--STEPS", "2", "-o", "shared", "-sg"]
    assert "already has unet_0" in error(*again, "0")
    assert train.entry([*again, "1"]) == 0
    for i in range(2):
        assert same(weights("whole", i), weights("shared", i))
    mine = ["-p", "shared/parameters", "--DEVICE", "cpu", "-pr", "fp32", "--STEPS", "2"]
    assert "parameters differ: training.source" in error(*mine, "-sg", "1", "-o", "shared")


def test_what_cannot_be_started_from_is_one_line(trained: Path, refused: Refused) -> None:
    asked = [*FROM, "--STEPS", "1"]
    refused(train.entry, ["--FROM", "nowhere", "-st", "1"], "no training directory nowhere")
    refused(train.entry, FROM, "--FROM needs a length", "--EPOCHS, --STEPS, --MINUTES")
    refused(train.entry, [*asked, "-s", "64"], "image_sizes was", "leave that as it was")
    refused(train.entry, [*asked, "-mw", "8"], "the text encoder, or its --MAX_NUM_WORDS")
    refused(train.entry, [*asked, "-w", "7"], "no checkpoint of unet_0 after step 7", "keeps 1")
    refused(train.entry, [*asked, "-rd", "x"], "--RESTART_DIRECTORY contradicts --FROM")
    refused(train.entry, [*asked, "-di", "x"], "--DISTILL contradicts --FROM")
    refused(train.entry, ["-w", "best"], "--WEIGHTS needs --FROM")
    for path in (trained / "state_dicts").glob("unet_?.safetensors"):
        path.unlink()
    refused(train.entry, asked, "training_mine has no trained weights", "--FROM")


def test_the_stages_of_a_larger_cascade_start_where_the_sources_end(
    trained: Path, here: Path
) -> None:
    """--PARAMETERS beside --FROM: a third stage is new."""
    shutil.copytree(trained / "parameters", here / "larger")
    imagen = json.loads((here / "larger" / "imagen.json").read_text())
    imagen["image_sizes"].append([64, 64])
    (here / "larger" / "imagen.json").write_text(json.dumps(imagen))
    shutil.copy(here / "larger" / "unet_1.json", here / "larger" / "unet_2.json")
    (here / "larger" / "training.json").unlink()
    argv = [*QUICK, *FROM, "-p", "larger", "-sg", "2", "-o", "fine"]
    assert train.entry(argv) == 0
    assert same(weights("fine", 1), weights(trained, 1))
    assert "stage 2 starts at random" in log("fine")


def test_a_python_user_starts_from_a_directory(trained: Path) -> None:
    imagen = Imagen.from_parameters(trained / "parameters", seed=5)
    directory = train_in_python(
        imagen,
        ShapesDataset("train", size=32, epoch_size=16),
        TrainingConfig(steps=1, batch_size=2, sample_captions=("a star",)),
        output="mine",
        stages=[1],
        device="cpu",
        source=Source(TrainingDirectory(trained)),
    )
    assert same(weights(directory.path, 0), weights(trained, 0))
    source = Imagen.from_directory(trained)
    assert fingerprint_of(imagen.stages[0], "") == fingerprint_of(source.stages[0], "")


@pytest.fixture
def bundle(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cascade that comes with the package, and one without weights."""
    folder = trained.parent / "pretrained"
    shutil.copytree(trained, folder / "emoji")
    (folder / "scenes").mkdir()
    monkeypatch.setattr("minimagen.cli.settings.BUNDLED", folder / "emoji")
    return folder / "emoji"


def test_what_a_gpu_trained_goes_on_with_batches_that_suit_a_cpu(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def batches(*flags: str) -> list[int]:
        argv = ["--FROM", str(BUNDLED), "--MINUTES", "1", *flags]
        config = train.settings_of(train.parse_flags(argv)).parameters().training
        return [config.batch_size, config.batch_size_of(0)]

    assert read_parameters(BUNDLED / "parameters").training.batch_size_of(0) == 256
    assert batches("--DEVICE", "cpu") == [32, 32]
    assert "batches of 32: on a CPU, the 256 of the source" in capsys.readouterr().out
    assert batches("--DEVICE", "cpu", "--ACCUM_ITER", "3") == [30, 30]
    assert batches("--DEVICE", "cpu", "--BATCH_SIZE", "64") == [64, 64]
    distilled = train.settings_of(train.parse_flags(["--DISTILL", str(BUNDLED), "--STEPS", "1"]))
    assert distilled.parameters().training.batch_size_of(0) == 32
    shutil.copytree(PRESETS / "clip", here / "clip" / "parameters")  # its loss is of the batch
    flags = train.parse_flags(["--FROM", "clip", "--MINUTES", "1", "--DEVICE", "cpu"])
    assert train.settings_of(flags).parameters().training.batch_size_of(0) == 256
    capsys.readouterr()
    monkeypatch.setattr("minimagen.device.resolve_device", lambda _: torch.device("cuda"))
    assert batches() == [256, 256]
    assert not capsys.readouterr().out


def test_few_images_of_its_size_are_a_reason_to_start_from_a_bundled_cascade(
    bundle: Path,
    trained: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is printed before the training, which is left out here."""
    directory = TrainingDirectory(trained)
    monkeypatch.setattr("minimagen.training.run.train", lambda *_, **__: directory)

    def printed(*flags: str) -> str:
        assert train.entry([*flags, "--STEPS", "1", "--VALID_NUM", "2", "--DEVICE", "cpu"]) == 0
        return capsys.readouterr().out

    tiny = ["--TESTING", "-b", "2"]
    suggestion = "12 images are few to learn from. --FROM pretrained/emoji starts from"
    assert suggestion in printed(*tiny, "-ds", str(images))
    assert suggestion not in printed(*tiny, "-ds", str(images), "-s", "64")
    assert suggestion not in printed("--FROM", "pretrained/emoji", "-b", "2", "-ds", str(images))
    assert "--FROM" not in printed(*tiny)
    shutil.rmtree(bundle / "state_dicts")
    assert "--FROM" not in printed(*tiny, "-ds", str(images))


def test_a_cascade_that_was_shared_is_a_source(trained: Path, images: Path) -> None:
    """It has no training.json: only weights and what they are."""
    Imagen.from_directory(trained).save_pretrained("shared")
    argv = ["--FROM", "shared", "--DATASET", str(images), "-o", "tuned", "--STEPS", "1", "-b", "2"]
    assert train.entry([*argv, "--DEVICE", "cpu"]) == 0
    assert training("tuned")["steps"] == [1, 1]


def test_a_cascade_that_was_shared_is_distilled_and_not_resumed(
    trained: Path, images: Path, refused: Refused
) -> None:
    Imagen.from_directory(trained).save_pretrained("shared")
    refused(train.entry, ["-rd", "shared"], "was shared without its training", "--FROM shared")
    refused(train.entry, ["--DISTILL", "shared", "--STEPS", "1"], "give --DATASET")
    argv = ["--DISTILL", "shared", "--DATASET", str(images), "-o", "few", "--STEPS", "1", "-t", "1"]
    assert train.entry([*argv, "-b", "2", "--DEVICE", "cpu"]) == 0
    assert read_parameters(Path("few", "parameters")).imagen.stages[0].distilled_steps == 1


def test_what_belongs_to_the_data_of_the_source_is_not_asked_of_other_data(
    trained: Path, images: Path
) -> None:
    data = json.loads((trained / "parameters" / "data.json").read_text())
    data |= {"where": "style == 'noto'", "caption_column": "name", "dataset": str(trained)}
    (trained / "parameters" / "data.json").write_text(json.dumps(data))
    file = trained / "parameters" / "training.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_captions": ["a star"]}))
    argv = ["--FROM", str(trained), "--DATASET", str(images), "-o", "tuned", "--STEPS", "1"]
    assert train.entry([*argv, "-b", "2", "--DEVICE", "cpu"]) == 0
    found = json.loads(Path("tuned", "parameters", "data.json").read_text())
    assert (found["where"], found["caption_column"], found["max_samples"]) == (None, "text", None)
    captions = Path("tuned", "samples", "captions.txt").read_text().splitlines()
    assert captions and all(caption.startswith("number") for caption in captions)


def test_the_command_that_continues_names_what_was_chosen(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*FROM, "--DATASET", str(images), "-o", "tuned", "--STAGES", "0", "--STEPS", "1"]
    assert train.entry([*argv, "-b", "2"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("continue:")]
    assert "--STAGES 0" in line
