"""Every mistake of a user: one clear line, exit code 2, and nothing is written or lost."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file

from minimagen.__main__ import main as minimagen
from minimagen.cli import inference, train
from minimagen.storage import checkpoint
from minimagen.storage.checkpoint import load_newest
from minimagen.storage.directory import TrainingDirectory

TESTING = Path(__file__).parents[2] / "parameters" / "testing"
QUICK = ["--TESTING", "--STEPS", "1", "--VALID_NUM", "2", "-b", "2", "-t", "1", "--DEVICE", "cpu"]

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training directory, in a folder of its own."""
    path = tmp_path_factory.mktemp("trained") / "training_mine"
    assert train.entry([*QUICK, "--OUTPUT", str(path)]) == 0
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(trained_once: Path, here: Path) -> Path:
    """A copy of the training directory here."""
    return Path(shutil.copytree(trained_once, here / "training_mine"))


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a door; it must say ``words`` in one line, exit with 2 and leave every file alone."""

    def run(entry: Callable[[list[str]], int], argv: list[Any], *words: str) -> str:
        before = contents(here)
        capsys.readouterr()
        assert entry([str(argument) for argument in argv]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0]
        assert contents(here) == before
        return lines[0]

    return run


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def preset(here: Path, file: str, **changes: Any) -> Path:
    """A copy of the testing preset with some values of one file changed."""
    folder = Path(shutil.copytree(TESTING, here / "parameters"))
    path = folder / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--BATCHSIZE", "4"], ["'--BATCHSIZE'", "did you mean '--BATCH_SIZE'"]),
        (["--batch_size", "4"], ["did you mean '--batch-size'"]),
        (["--BATCH_SIZE", "0"], ["--BATCH_SIZE", "'0' is not a whole number of at least 1"]),
        (["--OPTIM_LR", "-1"], ["--OPTIM_LR", "'-1' is not a number above 0"]),
        (["--OPTIM_LR=-1e-4"], ["'-1e-4' is not a number above 0"]),
        (["--OPTIM_LR", "nan"], ["'nan' is not a number above 0"]),
        (["--TRAIN_VALID_FRAC", "1.5"], ["'1.5' is not a number between 0 and 1"]),
        (["--PRECISION", "fp8"], ["'fp8'", "bf16"]),
        (["--EPOCHS", "1", "--STEPS", "5"], ["--EPOCHS and --STEPS", "one of them"]),
        (["--STEPS", "1", "--MINUTES", "5"], ["--STEPS and --MINUTES"]),
        (["--EPOCHS", "1", "--MINUTES", "5"], ["--EPOCHS and --MINUTES"]),
        (["--IN_PLACE"], ["--RESTART_DIRECTORY"]),
        (["--IMG_SIDE_LEN", "30"], ["stage 0", "15 x 15", "not divisible by 2"]),
        (["--BATCH_SIZE", "4", "--ACCUM_ITER", "3"], ["4 is not divisible by accum_iter 3"]),
        (["--STAGES", "0,5"], ["no stage 5", "0 to 1"]),
        (["--DEVICE", "abacus"], ["'abacus' is not available", "use auto, ", "cpu"]),
        (["--DEVICE", "cuda:99"], ["'cuda:99' is not available"]),
        (["--DEVICE", "cpu:x"], ["'cpu:x' is not available"]),
        (["--DEVICE", "cpu:"], ["'cpu:' is not available"]),
        (["--PARAMETERS", "nowhere"], ["no parameters directory nowhere"]),
        (["--RESTART_DIRECTORY", "nowhere"], ["no training directory nowhere"]),
        (["--DATASET", "nowhere"], ["'nowhere'", "shapes"]),
        (["--T5_NAME", "t5_mimi"], ["'t5_mimi'", "did you mean 't5_mini'"]),
        (["PARAMETERS"], ["unknown argument 'PARAMETERS'"]),
    ],
)
def test_a_mistaken_flag_of_train(refused: Refused, argv: list[str], words: list[str]) -> None:
    refused(train.entry, ["--TESTING", *argv], *words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--CAPTION", "a star"], ["did you mean '--CAPTIONS'"]),
        (["--AUG_LEVEL", "2"], ["'2' is not a number from 0 to 1"]),
        (["--AUG_LEVEL", "0,2"], ["'2' is not a number from 0 to 1"]),
        (["--SAMPLER", "dimm"], ["'dimm'", "ddim"]),
        (["--CAPTIONS", " "], ["blank"]),
        (["--CAPTIONS", "nowhere.txt"], ["nowhere.txt"]),
        (["--TRAINING_DIRECTORY", "nowhere"], ["no training directory nowhere"]),
        ([], ["no training directory with trained weights here", "python train.py"]),
    ],
)
def test_a_mistaken_flag_of_inference(refused: Refused, argv: list[str], words: list[str]) -> None:
    refused(inference.entry, argv, *words)


def test_an_unknown_command(refused: Refused) -> None:
    refused(minimagen, ["trian"], "'trian'", "did you mean 'train'")


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("training", {"batchsize": 4}, ["'batchsize'", "did you mean 'batch_size'"]),
        ("training", {"batch_size": 0}, ["batch_size", "given 0"]),
        ("training", {"epochs": 3}, ["exactly one of epochs, steps and minutes"]),
        ("training", {"stages": [{"optim_lr": -1e-3}]}, ["optim_lr", "given -0.001"]),
        ("training", {"stages": [{}, {}, {}]}, ["3 entries for 2 stages"]),
        ("imagen", {"image_size": 4}, ["'image_size'", "did you mean 'image_sizes'"]),
        ("imagen", {"image_sizes": [16, 34]}, ["stage 1", "34 x 34", "divisible by 4"]),
        ("imagen", {"image_sizes": [16]}, ["1 entries for 2 stages"]),
        ("unet_1", {"prediction": "x0"}, ["unet_1.json", "prediction", "given 'x0'"]),
        ("unet_0", {"unet": {"dim": 8, "dim_mult": [1]}}, ["did you mean 'dim_mults'"]),
        ("data", {"valid_num": 0}, ["valid_num", "given 0"]),
    ],
)
def test_a_mistake_in_the_parameters(
    refused: Refused, here: Path, file: str, changes: dict[str, Any], words: list[str]
) -> None:
    refused(train.entry, ["-p", preset(here, file, **changes)], *words)


@pytest.mark.parametrize("file", ["imagen", "unet_0", "training", "data"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe\x00", b"null", b'{"stages": 1}']
)
def test_a_parameters_file_that_is_no_configuration(
    refused: Refused, here: Path, file: str, content: bytes
) -> None:
    folder = preset(here, file)
    (folder / f"{file}.json").write_bytes(content)
    refused(train.entry, ["-p", folder, "--TESTING"], file)


def test_an_empty_directory(refused: Refused, here: Path) -> None:
    (here / "empty").mkdir()
    refused(train.entry, ["-p", "empty"], "empty has no imagen.json")
    refused(train.entry, ["-rd", "empty"], "training directory empty is empty")
    refused(inference.entry, ["-d", "empty"], "training directory empty is empty")
    refused(train.entry, ["-ds", "empty", "--TESTING"], "empty holds no pictures")


def test_an_output_that_holds_something(refused: Refused, here: Path, trained: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years of work")
    refused(train.entry, [*QUICK, "-o", "mine"], "mine exists and is not empty")
    refused(inference.entry, ["-d", trained, "-o", "mine"], "mine exists and is not empty")


def test_a_directory_without_trained_weights(refused: Refused, trained: Path) -> None:
    (trained / "state_dicts" / "unet_1.safetensors").unlink()
    argv = ["-d", trained, "-c", "a star"]
    refused(inference.entry, argv, "no trained weights for stage 1", "--RESTART_DIRECTORY")


def test_truncated_weights(refused: Refused, trained: Path) -> None:
    path = trained / "state_dicts" / "unet_0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(inference.entry, ["-d", trained, "-c", "a star"], str(path), "truncated")


def test_foreign_weights(refused: Refused, trained: Path) -> None:
    path = trained / "state_dicts" / "unet_0.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    refused(inference.entry, ["-d", trained, "-c", "a star"], str(path))
    torch.save({"weight": torch.zeros(3)}, path)
    refused(inference.entry, ["-d", trained, "-c", "a star"], str(path), "not a safetensors file")


def test_weights_of_another_configuration(refused: Refused, trained: Path) -> None:
    path = trained / "parameters" / "unet_1.json"
    stage = json.loads(path.read_text())
    stage["unet"]["dim"] *= 2
    path.write_text(json.dumps(stage))
    argv = ["-d", trained, "-c", "a star"]
    refused(inference.entry, argv, "unet_1.safetensors", "another configuration")


def test_weights_of_another_network_under_the_right_header(refused: Refused, trained: Path) -> None:
    path = trained / "state_dicts" / "unet_0.safetensors"
    weights = checkpoint.load_weights(path)
    renamed = {f"old.{name}": tensor for name, tensor in weights.tensors.items()}
    checkpoint.save_weights(path, renamed, weights.state)
    refused(inference.entry, ["-d", trained, "-c", "a star"], "not hold the weights of this")


def test_a_training_directory_of_minimagen(refused: Refused, here: Path) -> None:
    folder = here / "training_20220816_165729" / "parameters"
    folder.mkdir(parents=True)
    (folder / "unet_0_params_20220816_165729.json").write_text("{}")
    (folder / "imagen_params_20220816_165729.json").write_text("{}")
    refused(inference.entry, ["-d", folder.parent], "MinImagen", "--PARAMETERS")
    refused(train.entry, ["-rd", folder.parent], "MinImagen", "--PARAMETERS")


def test_weights_swapped_between_stages(refused: Refused, trained: Path) -> None:
    folder = trained / "state_dicts"
    shutil.copy(folder / "unet_0.safetensors", folder / "unet_1.safetensors")
    refused(inference.entry, ["-d", trained, "-c", "a star"], "another configuration")


@pytest.mark.parametrize("content", [b"", b"\n  \n\n"])
def test_captions_without_a_caption(refused: Refused, trained: Path, content: bytes) -> None:
    Path("captions.txt").write_bytes(content)
    refused(inference.entry, ["-d", trained, "-c", "captions.txt"], "has no captions")


def test_files_that_are_not_utf_8(refused: Refused, trained: Path) -> None:
    Path("captions.txt").write_bytes("eine grüne Blume".encode("latin-1"))
    argv = ["-d", trained, "-c", "captions.txt"]
    refused(inference.entry, argv, "captions.txt is not UTF-8", "byte 7")
    folder = pictures(Path("data"))
    (folder / "0.txt").write_bytes("grün".encode("latin-1"))
    refused(train.entry, [*QUICK, "-ds", folder], "0.txt is not UTF-8")


def pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        Picture.new("RGB", (32, 32), (40 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


def test_a_data_folder_without_captions(refused: Refused, here: Path) -> None:
    refused(train.entry, [*QUICK, "-ds", pictures(here / "data")], "no captions", "metadata.jsonl")


def test_a_data_folder_too_small_to_divide(refused: Refused, here: Path) -> None:
    folder = pictures(here / "data", count=1)
    (folder / "0.txt").write_text("black")
    refused(train.entry, [*QUICK, "-ds", folder], "1 pictures")


def test_a_text_encoder_that_cannot_be_fetched(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minimagen.text import t5

    monkeypatch.setattr(t5, "_is_on_hub", lambda source: False)
    argv = [*QUICK, "--T5_NAME", "small1.1"]
    refused(train.entry, argv, "google/t5-v1_1-small", "folder", "t5_mini")


def test_a_resumed_run_may_not_change(refused: Refused, trained: Path) -> None:
    refused(train.entry, ["-rd", trained, "-b", "4"], "--BATCH_SIZE 4 differs", "ACCUM_ITER")
    refused(train.entry, ["-rd", trained, "--SEED", "9"], "--SEED 9 differs")
    refused(train.entry, ["-rd", trained, "-p", TESTING], "leave out --PARAMETERS")


def test_a_resumed_run_that_is_past_its_end(refused: Refused, trained: Path) -> None:
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "2"]) == 0
    refused(train.entry, ["-rd", trained, "--STEPS", "1"], "already has 2 steps", "more STEPS")


def test_a_resumed_run_of_another_configuration(refused: Refused, trained: Path) -> None:
    path = trained / "parameters" / "unet_1.json"
    stage = json.loads(path.read_text())
    stage["unet"]["dim"] *= 2
    path.write_text(json.dumps(stage))
    refused(
        train.entry, ["-rd", trained, "--STEPS", "2"], "stage 1", "another run", "unet.dim was 16"
    )


@pytest.mark.parametrize(
    ("file", "keys", "value", "words"),
    [
        ("training.json", ["batch_size"], 4, "batch_size was 2, is 4"),
        ("training.json", ["seed"], 7, "seed was 0, is 7"),
        ("training.json", ["stages", 0, "optimizer"], "adamw", "was 'muon', is 'adamw'"),
        ("data.json", ["epoch_size"], 65, "data.epoch_size was 64, is 65"),
        ("data.json", ["dataset"], "shapes:scenes", "was 'shapes', is 'shapes:scenes'"),
    ],
)
def test_a_resumed_run_whose_parameters_were_edited(
    refused: Refused, trained: Path, file: str, keys: list[Any], value: Any, words: str
) -> None:
    path = trained / "parameters" / file
    values = place = json.loads(path.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(values))
    refused(train.entry, ["-rd", trained, "--STEPS", "2"], words, "another run")


def test_a_resumed_run_with_damaged_checkpoints(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (trained / "tmp").rglob("tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = contents(here)
    assert train.entry(["-rd", str(trained), "--STEPS", "2"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "every checkpoint" in error[0] and "is damaged" in error[0]
    assert contents(here) == before


def test_a_resumed_run_keeps_its_stages_batch_sizes(trained: Path) -> None:
    path = trained / "parameters" / "training.json"
    values = json.loads(path.read_text())
    for stage in values["stages"]:
        stage["batch_size"] = 2
    path.write_text(json.dumps(values))
    assert train.entry(["-rd", str(trained), "-b", "2", "--STEPS", "2", "-o", "longer"]) == 0
    kept = json.loads(Path("longer/parameters/training.json").read_text())
    assert [stage["batch_size"] for stage in kept["stages"]] == [2, 2]


def test_a_damaged_newest_checkpoint_does_not_outlive_the_good_ones(trained: Path) -> None:
    """Resumed in place behind a damaged checkpoint, the run keeps what it writes from there on."""
    tmp, good = trained / "tmp", trained / "tmp" / "unet_0_step_00000001"
    for step in (2, 900):
        damaged = Path(shutil.copytree(good, tmp / f"unet_0_step_{step:08d}"))
        (damaged / "tensors.safetensors").write_bytes(b"")
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "3", "-cn", "1"]) == 0
    found = load_newest(tmp, "unet_0_step_")
    assert found is not None and found.state["step"] == 3
    assert (tmp / "unet_0_step_00000002" / "manifest.json").is_file()
    assert (tmp / "unet_0_step_00000900.damaged").is_dir()


@pytest.mark.parametrize("where", ["open", "fsync"])
def test_a_full_disk_ends_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The disk fills up while the run writes its logs, or anything that is synced."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    if where == "open":
        monkeypatch.setattr("minimagen.training.tracking.Tracker.record", full)
    else:
        monkeypatch.setattr("os.fsync", full)
    assert train.entry([*QUICK, "--OUTPUT", "mine"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(error) == 1 and "No space left on device" in error[0]


def test_a_full_disk_leaves_the_old_checkpoint_good(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = TrainingDirectory(trained)
    old = load_newest(directory.tmp, directory.checkpoint_prefix(0))
    weights = directory.weights(0).read_bytes()

    def full(tensors: Any, path: Path, *_: Any) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train.entry(["-rd", str(trained), "--IN_PLACE", "--STEPS", "2"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(error) == 1 and "No space left on device" in error[0]
    new = load_newest(directory.tmp, directory.checkpoint_prefix(0))
    assert old is not None and new is not None and new.state == old.state
    assert all(torch.equal(new.tensors[name], tensor) for name, tensor in old.tensors.items())
    assert directory.weights(0).read_bytes() == weights
    assert not list(trained.rglob("*.part"))
