"""Every mistake of a user: one clear line, exit code 2, and nothing is written or lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from minimagen.__main__ import main as minimagen
from minimagen.cli import inference, train
from minimagen.storage import checkpoint
from tests.cli.conftest import QUICK, TESTING

Refused = Callable[..., str]


def preset(here: Path, file: str, of: Path = TESTING, **changes: Any) -> Path:
    """A copy of a preset, that of testing by default, with some values of one file changed."""
    folder = Path(shutil.copytree(of, here / "parameters"))
    path = folder / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--BATCHSIZE", "4"], ["'--BATCHSIZE'", "did you mean '--BATCH_SIZE'"]),
        (["--BATCH_SIZE", "0"], ["--BATCH_SIZE must be greater than or equal to 1, given '0'"]),
        (["--BATCH_SIZE", "4.5"], ["--BATCH_SIZE must be a valid integer", "given '4.5'"]),
        (["--OPTIM_LR", "-1"], ["--OPTIM_LR must be greater than 0, given '-1'"]),
        (["--OPTIM_LR=-1e-4"], ["greater than 0, given '-1e-4'"]),
        (["--OPTIM_LR", "nan"], ["must be a finite number, given 'nan'"]),
        (["--OPTIM_LR", "1e-3,0"], ["--OPTIM_LR must be greater than 0, given '0'"]),
        (["--TRAIN_VALID_FRAC", "1.5"], ["must be less than 1, given '1.5'"]),
        (["--PRECISION", "fp8"], ["--PRECISION must be 'auto', 'fp32' or 'bf16', given 'fp8'"]),
        (["--EPOCHS", "1", "--STEPS", "5"], ["one of epochs, steps and minutes", "'epochs', 's"]),
        (["--STEPS", "1", "--MINUTES", "5"], ["one of", "given ['steps', 'minutes']"]),
        (["--EPOCHS", "1", "--MINUTES", "5"], ["one of", "given ['epochs', 'minutes']"]),
        (["--IN_PLACE"], ["--RESTART_DIRECTORY"]),
        (["--IMG_SIDE_LEN", "30"], ["--IMG_SIDE_LEN 30", "a multiple of 4", "use 28 or 32"]),
        (["--BATCH_SIZE", "4", "--ACCUM_ITER", "3"], ["4 is not divisible by accum_iter 3"]),
        (["--STAGES", "0,5"], ["no stage 5", "0 to 1"]),
        (["--DEVICE", "abacus"], ["'abacus' is not available", "use auto, ", "cpu"]),
        (["--DEVICE", "cuda:99"], ["'cuda:99' is not available"]),
        (["--DEVICE", "cpu:x"], ["'cpu:x' is not available"]),
        (["--DEVICE", "cpu:"], ["'cpu:' is not available"]),
        (["--PARAMETERS", "nowhere"], ["no parameters directory nowhere"]),
        (["--DATASET", "nowhere"], ["'nowhere'", "shapes"]),
        (["--ASPECT_BUCKETS"], ["shapes are square", "images of your own"]),
        (["--FLIP"], ["shapes are drawn, and not mirrored: --FLIP needs your own images"]),
        (["--T5_NAME", "t5_mimi"], ["'t5_mimi'", "did you mean 't5_mini'"]),
        (["PARAMETERS"], ["unknown argument 'PARAMETERS'"]),
    ],
)
def test_a_mistaken_flag_of_train(refused: Refused, argv: list[str], words: list[str]) -> None:
    refused(train.entry, ["--TESTING", *argv], *words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-rd", "nowhere"], ["no training directory nowhere"]),
        (["-rd", "x", "--TESTING"], ["--RESTART_DIRECTORY contradicts --TESTING"]),
        (["-rd", "x", "--IN_PLACE", "-o", "y"], ["--IN_PLACE contradicts --OUTPUT"]),
        (["-rd", "x", "--MINUTES", "5", "--STEPS", "9"], ["--STEPS contradicts --MINUTES"]),
        (["-p", "clip", "--TIMESTEPS", "5"], ["--TIMESTEPS is a setting of stages"]),
        (["-di", "x", "-mw", "3"], ["--DISTILL contradicts --MAX_NUM_WORDS"]),
        (["-di", "x"], ["--DISTILL needs a length", "--STEPS"]),
    ],
)
def test_flags_that_contradict_each_other(
    refused: Refused, argv: list[str], words: list[str]
) -> None:
    refused(train.entry, argv, *words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--CAPTION", "a star"], ["did you mean '--CAPTIONS'"]),
        (["--AUG_LEVEL", "2"], ["--AUG_LEVEL must be less than or equal to 1, given '2'"]),
        (["--AUG_LEVEL", "0,2"], ["must be less than or equal to 1, given '2'"]),
        (["--SAMPLER", "dimm"], ["'dimm'", "ddim"]),
        (["--ASPECT_RATIO", "3:0"], ["must be width:height, such as 3:2, given '3:0'"]),
        (["--ASPECT_RATIO", "wide"], ["must be width:height", "'wide'"]),
        (["--CAPTIONS", " "], ["blank"]),
        (["--CAPTIONS", "nowhere.txt"], ["nowhere.txt"]),
        (["--TRAINING_DIRECTORY", "nowhere"], ["no training directory nowhere"]),
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
        ("training", {"learners": [{"optim_lr": -1e-3}]}, ["optim_lr", "given -0.001"]),
        ("training", {"learners": [{}, {}, {}]}, ["3 entries for the 2"]),
        ("imagen", {"image_size": 4}, ["'image_size'", "did you mean 'image_sizes'"]),
        ("imagen", {"image_sizes": [16, 34]}, ["stage 1", "34 x 34", "use 32 x 32 or 36 x 36"]),
        ("imagen", {"image_sizes": [16]}, ["1 entries for 2 stages"]),
        ("unet_1", {"prediction": "x0"}, ["unet_1.json", "prediction", "given 'x0'"]),
        ("unet_0", {"unet": {"dim": 8, "dim_mults": [1], "channels": 1}}, ["channels is 1", "RGB"]),
        ("unet_0", {"unet": {"dim": 8, "dim_mult": [1]}}, ["did you mean 'dim_mults'"]),
        ("data", {"valid_num": 0}, ["valid_num", "given 0"]),
    ],
)
def test_a_mistake_in_the_parameters(
    refused: Refused, here: Path, file: str, changes: dict[str, Any], words: list[str]
) -> None:
    refused(train.entry, ["-p", preset(here, file, **changes)], *words)


@pytest.mark.parametrize(
    ("name", "file", "changes", "words"),
    [
        ("clip", "clip", {"embed_dim": 0}, ["embed_dim", "given 0"]),
        ("clip", "clip", {"loss": "infonse"}, ["loss", "given 'infonse'"]),
        ("classes", "imagen", {"text_encoder_name": "label"}, ["'label'", "mean 'labels'"]),
        ("linear_l1", "unet_0", {"schedule": {"kind": "flaw"}}, ["schedule", "given 'flaw'"]),
        ("linear_l1", "unet_0", {"loss": {"error": "l3"}}, ["loss.error", "given 'l3'"]),
        ("latent", "autoencoder_0", {"latent_channel": 4}, ["mean 'latent_channels'"]),
        ("latent", "autoencoder_0", {"latent_channels": 3}, ["unet.channels is 4", "have 3"]),
        ("dalle", "autoencoder_0", {"kind": "vq"}, ["kind", "given 'vq'"]),
        ("dalle", "autoencoder_0", {"kind": "fsq", "levels": [1]}, ["levels", "given 1"]),
        ("dalle", "gpt_0", {"gpt": {"dim": 30, "heads": 4}}, ["30 is not divisible by heads 4"]),
        ("dalle", "gpt_0", {"gpt": {"embedding": "chanels"}}, ["gpt.embedding", "'chanels'"]),
    ],
)
def test_a_mistake_in_the_parameters_of_each_learner(
    refused: Refused, here: Path, name: str, file: str, changes: dict[str, Any], words: list[str]
) -> None:
    folder = preset(here, file, TESTING.parent / name, **changes)
    refused(train.entry, ["-p", folder, "--TESTING"], *words)


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
    refused(train.entry, ["-ds", "empty", "--TESTING"], "empty holds no images")


def test_a_training_directory_given_for_its_parameters(refused: Refused, trained: Path) -> None:
    refused(train.entry, ["-p", trained], "did you mean", str(trained / "parameters"))


def test_an_output_that_holds_something(refused: Refused, here: Path, trained: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years of work")
    refused(train.entry, [*QUICK, "-o", "mine"], "mine exists and is not empty")
    refused(inference.entry, ["-d", trained, "-o", "mine"], "mine exists and is not empty")


def test_a_directory_without_trained_weights(refused: Refused, trained: Path) -> None:
    (trained / "state_dicts" / "unet_1.safetensors").unlink()
    argv = ["-d", trained, "-c", "a star"]
    refused(inference.entry, argv, "no trained weights unet_1.safetensors", "--RESTART_DIRECTORY")


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
    folder = folder_of_images(Path("data"))
    (folder / "0.txt").write_bytes("grün".encode("latin-1"))
    refused(train.entry, [*QUICK, "-ds", folder], "0.txt is not UTF-8")


def folder_of_images(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


def test_a_data_folder_without_captions(refused: Refused, here: Path) -> None:
    refused(
        train.entry,
        [*QUICK, "-ds", folder_of_images(here / "data")],
        "no captions",
        "metadata.jsonl",
    )


def test_a_data_folder_too_small_to_divide(refused: Refused, here: Path) -> None:
    folder = folder_of_images(here / "data", count=1)
    (folder / "0.txt").write_text("black")
    refused(train.entry, [*QUICK, "-ds", folder], "1 images")


def test_a_text_encoder_that_cannot_be_fetched(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minimagen.text import files

    monkeypatch.setattr(files, "hub_has", lambda source: False)
    argv = [*QUICK, "--T5_NAME", "small1.1"]
    refused(train.entry, argv, "google/t5-v1_1-small", "folder", "t5_mini")
