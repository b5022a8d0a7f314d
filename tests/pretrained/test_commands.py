"""inference.py and train.py with models of diffusers'; what is refused, in one line."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minimagen import Imagen
from minimagen.cli import evaluate, inference, train
from minimagen.cli.running import run
from minimagen.config import DiffusersConfig
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.networks.diffusers import unet_class
from minimagen.stages.stage import encode_own
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory, read_imagen_config
from minimagen.storage.hub import fetched
from minimagen.storage.model_hash import model_hash
from minimagen.text.encoding import encode_batch
from tests.cli.conftest import Refused
from tests.conftest import ONE_CAPTION

TINY = ["-t", "2", "--SEED", "1", "--DEVICE", "cpu", "-pr", "fp32"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Red and blue squares with captions."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(16):
        pixels = np.full((32, 32, 3), 255, np.uint8)
        pixels[8:24, 8:24] = (220, 20, 20) if i % 2 else (20, 20, 220)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a red star" if i % 2 else "a blue star")
    return folder


def size_of_first(folder: Path) -> tuple[int, int]:
    with Image.open(folder / "generated_images" / "image_0.png") as image:
        return image.size


def loss_of(imagen: Imagen, images: Path) -> float:
    """The loss on all images, the mean over 8 times and noises of each."""
    stage = imagen.stages[0]
    encode_own([stage], imagen.text_encoder)
    paths = sorted(images.glob("*.png"))
    text = encode_batch(imagen.text_encoder, [p.with_suffix(".txt").read_text() for p in paths])
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths])
    batch = Batch(pixels.permute(0, 3, 1, 2), *text.pair)
    with torch.no_grad():
        losses = [stage.loss(batch, Draws(0, 0, step, len(paths))).mean() for step in range(8)]
    return float(torch.stack(losses).mean())


def test_inference_writes_images_of_stable_diffusion_and_of_both_stages_of_if(
    models: Path, tmp_path: Path
) -> None:
    for name in (str(models / "sd1"), f"{models / 'IF-I'},{models / 'IF-II'}"):
        out = tmp_path / f"out{len(name)}"
        arguments = ["-d", name, "-c", "a red star", "-o", str(out), *TINY]
        assert inference.entry(arguments) == 0
        assert size_of_first(out) == (32, 32)
        made = json.loads((out / "images.jsonl").read_text())
        assert made["model"] == model_hash(TrainingDirectory.open(name))


def test_an_image_does_not_depend_on_its_batch_and_is_made_again(models: Path) -> None:
    imagen = Imagen.from_pretrained(models / "sd1")
    settings: dict[str, Any] = {"precision": "fp32", "timesteps": 3, "progress": False}
    settings["output_type"] = "pt"
    several = imagen.sample(["a red star", "a cat", "a dog"], seeds=[1, 2, 3], **settings)
    alone = imagen.sample(["a cat"], seeds=[2], **settings)
    torch.testing.assert_close(several[1:2], alone, rtol=0, atol=1e-5)
    again = Imagen.from_pretrained(models / "sd1").sample(["a cat"], seeds=[2], **settings)
    assert torch.equal(alone, again)


def test_half_the_memory_of_weights_gives_the_images_of_autocast(models: Path) -> None:
    imagen = Imagen.from_pretrained(models / "sd1")
    settings: dict[str, Any] = {"seed": 1, "timesteps": 3, "precision": "bf16", "progress": False}
    wanted = imagen.sample("a red star", output_type="pt", **settings)
    imagen.stages[0].unet.bfloat16()
    assert torch.equal(imagen.sample("a red star", output_type="pt", **settings), wanted)


def test_fine_tuning_lowers_the_loss_is_resumed_and_needs_the_model_s_text_only(
    models: Path, tmp_path: Path, images: Path
) -> None:
    own = Path(shutil.copytree(models / "sd1", tmp_path / "sd1"))
    run, more = tmp_path / "run", tmp_path / "more"
    common = ["--DATASET", str(images), "--DEVICE", "cpu", "-pr", "fp32", "-n", "0", *ONE_CAPTION]
    steps = ["--STEPS", "60", "-lr", "3e-3", "-b", "8"]
    assert train.entry(["--FROM", str(own), *common, *steps, "-o", str(run)]) == 0
    before_training = loss_of(Imagen.from_pretrained(own), images)
    shutil.rmtree(own / "unet")  # its weights are in the run now
    config = read_imagen_config(run / "parameters").stages[0]
    assert config.kind == "diffusers" and config.own_model is None
    loaded = Imagen.from_directory(run)
    assert loss_of(loaded, images) < 0.8 * before_training
    before = load_weights(run / "state_dicts" / "unet_0.safetensors").tensors
    assert torch.equal(
        loaded.stages[0].state_dict()["unet.network.conv_in.bias"],
        before["unet.network.conv_in.bias"],
    )
    resumed = ["--RESTART_DIRECTORY", str(run), "--STEPS", "64", "-o", str(more)]
    assert train.entry([*resumed, "--DEVICE", "cpu", "-pr", "fp32", "-n", "0"]) == 0
    assert "stage 0 continues after step 60" in (more / "training_progress.txt").read_text()
    after = load_weights(more / "state_dicts" / "unet_0.safetensors").tensors
    assert not torch.equal(before["unet.network.conv_in.bias"], after["unet.network.conv_in.bias"])
    assert (
        inference.entry(["-d", str(more), "-c", "a red star", "-o", str(tmp_path / "out"), *TINY])
        == 0
    )


def test_if_is_followed_by_our_own_super_resolution(
    models: Path, tmp_path: Path, images: Path
) -> None:
    folder, run, out = (tmp_path / name for name in ("parameters", "run", "out"))
    folder.mkdir()
    unet = {"dim": 8, "dim_mults": [1, 2], "attn_heads": 1, "attn_head_dim": 8}
    base = str(models / "IF-I")
    files: dict[str, Any] = {
        "imagen": {"image_sizes": [16, 32], "text_encoder_name": f"diffusers:{base}"},
        "unet_0": {"kind": "diffusers", "model": base},
        "unet_1": {"unet": unet, "sampling": {"timesteps": 2}},
        "training": {"steps": 2, "batch_size": 4},
        "data": {},
    }
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    arguments = ["--PARAMETERS", str(folder), "--STAGES", "1", "--DATASET", str(images)]
    arguments += ONE_CAPTION
    assert train.entry([*arguments, "-o", str(run), "--DEVICE", "cpu", "-n", "0"]) == 0
    assert not (run / "state_dicts" / "unet_0.safetensors").exists()
    assert TrainingDirectory(run).is_trained
    imagen = Imagen.from_directory(run)
    theirs = Imagen.from_pretrained(base).stages[0].state_dict()
    own = imagen.stages[0].state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    assert inference.entry(["-d", str(run), "-c", "a cat", "-o", str(out), *TINY]) == 0
    assert size_of_first(out) == (32, 32)


def test_what_a_stage_s_parameters_leave_out_is_the_model_s(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    stage = {
        "kind": "diffusers",
        "model": "sd1",
        "sampling": {"timesteps": 7},
        "schedule": {"timestep_spacing": "trailing"},
    }
    (tmp_path / "unet_0.json").write_text(json.dumps(stage))
    (tmp_path / "imagen.json").write_text('{"image_sizes": [32]}')
    found = read_imagen_config(tmp_path).stages[0]
    assert isinstance(found, DiffusersConfig)
    assert (found.sampling.timesteps, found.sampling.guidance_scale) == (7, 7.5)
    assert found.sampling.thresholding == "none"
    assert (found.schedule.timestep_spacing, found.schedule.beta_end) == ("trailing", 0.012)
    assert found.model == str(models / "sd1")  # from any other folder, too


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers' schedulers
@pytest.mark.parametrize(
    ("kind", "spacing"),
    [
        ("PNDMScheduler", "leading"),
        ("DDPMScheduler", "leading"),
        ("EulerDiscreteScheduler", "linspace"),
        ("EulerAncestralDiscreteScheduler", "linspace"),
        ("DPMSolverMultistepScheduler", "linspace"),
        ("UniPCMultistepScheduler", "linspace"),
    ],
)
def test_times_that_a_scheduler_s_file_does_not_name_are_diffusers_default(
    models: Path, tmp_path: Path, kind: str, spacing: str
) -> None:
    import diffusers

    assert getattr(diffusers, kind)().config.timestep_spacing == spacing
    folder = Path(shutil.copytree(models / "sd1", tmp_path / "older"))
    path = folder / "scheduler" / "scheduler_config.json"
    values = json.loads(path.read_text()) | {"_class_name": kind}
    del values["timestep_spacing"]
    path.write_text(json.dumps(values))
    stage = read_imagen_config(TrainingDirectory.open(folder).parameters).stages[0]
    assert isinstance(stage, DiffusersConfig) and stage.schedule.timestep_spacing == spacing


def test_the_hash_of_a_model_is_that_of_the_files_that_are_read(
    models: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models / "sd1", tmp_path / "sd1"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert model_hash(TrainingDirectory.open(folder)) == model_hash(
        TrainingDirectory.open(models / "sd1")
    )


def test_a_stopped_run_of_a_cascade_of_two_models_goes_on(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = f"{models / 'IF-I'},{models / 'IF-II'}"
    arguments = ["-d", both, "-c", "a red star", "-n", "3", "-b", "2", *TINY]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert inference.entry([*arguments, "-o", str(whole)]) == 0
    shutil.copytree(whole, stopped)
    (stopped / "generated_images" / "image_2.png").unlink()
    lines = (stopped / "images.jsonl").read_text().splitlines(keepends=True)
    (stopped / "images.jsonl").write_text("".join(lines[:2]))
    assert inference.entry(["--CONTINUE", str(stopped), "--DEVICE", "cpu"]) == 0
    files = [folder / "generated_images" / "image_2.png" for folder in (whole, stopped)]
    assert files[0].read_bytes() == files[1].read_bytes()


evaluate_entry = partial(run, evaluate.main)


def test_a_model_does_not_say_what_to_evaluate_on_and_two_are_no_folder(
    models: Path, refused: Refused
) -> None:
    refused(evaluate_entry, ["-d", models / "sd1"], "does not say what it was trained on")
    refused(train.entry, ["--FROM", models / "sd1", "--STEPS", "1"], "give --DATASET")
    both = f"{models / 'IF-I'},{models / 'IF-II'}"
    refused(evaluate_entry, ["-d", both, "--DATASET", "shapes"], "no folder", "give --OUTPUT")


def ask(model: Any) -> list[Any]:
    return ["-d", model, "-c", "a red star"]


def test_pickles_and_single_files_are_refused(
    models: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "v1-5.ckpt").write_bytes(b"")
    refused(inference.entry, ask("v1-5.ckpt"), "pickle", "from_single_file", "FOLDER")
    (tmp_path / "v1-5.safetensors").write_bytes(b"")
    refused(inference.entry, ask("v1-5.safetensors"), "one file", "save_pretrained(FOLDER)")
    shutil.copytree(models / "sd1", tmp_path / "old")
    weights = tmp_path / "old" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refused(inference.entry, ask("old"), ".bin", "pickle", "safe_serialization")
    weights.with_suffix(".bin").unlink()
    refused(inference.entry, ask("old"), "has no diffusion_pytorch_model.safetensors")
    half = weights.with_name("diffusion_pytorch_model.fp16.safetensors")
    half.write_bytes(b"")
    refused(inference.entry, ask("old"), "is a variant", "name it")


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("StableDiffusionInpaintPipeline", "inpainting"),
        ("OtherPipeline", "OtherPipeline"),
    ],
)
def test_other_architectures_are_refused_by_name(
    tmp_path: Path, refused: Refused, pipeline: str, name: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    refused(inference.entry, ask("other"), name, "Stable Diffusion 1 and 2 and DeepFloyd IF")
    own = {"_class_name": ["pipeline", "Mine"]}  # as diffusers writes one of somebody's own
    (tmp_path / "other" / "model_index.json").write_text(json.dumps(own))
    refused(inference.entry, ask("other"), "Mine", "which is not read")


@pytest.mark.parametrize(
    "missing",
    [
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
        "text_encoder/config.json",
    ],
)
def test_a_missing_file_is_named(
    models: Path, tmp_path: Path, refused: Refused, missing: str
) -> None:
    shutil.copytree(models / "sd1", tmp_path / "half")
    (tmp_path / "half" / missing).unlink()
    refused(inference.entry, ask("half"), missing.split("/")[0], "copy")


def test_folders_of_another_kind_are_refused(
    models: Path, tmp_path: Path, refused: Refused
) -> None:
    refused(inference.entry, ask(models / "sd1" / "unet"), "one network", f"give {models / 'sd1'}")
    refused(inference.entry, ask(models / "IF-II"), "enlarges", "IF-I,IF-II")
    both = f"{models / 'sd1'},{models / 'nothing'}"
    refused(inference.entry, ask(both), "no folder", "nothing")
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "notes.txt").write_text("")
    refused(inference.entry, ask("stray"), "is not a training directory")
    refused(inference.entry, ["-d", models / "sd1"], "--CAPTIONS")
    refused(inference.entry, [*ask(models / "sd1"), "-t", "1000"], "at most 999", "--TIMESTEPS")
    two = f"{models / 'IF-I'},{models / 'IF-I'}"
    refused(inference.entry, ask(two), "must grow")


def test_damaged_weights_and_those_of_another_network_are_refused(
    models: Path, tmp_path: Path, refused: Refused
) -> None:
    shutil.copytree(models / "sd1", tmp_path / "bad")
    path = tmp_path / "bad" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(inference.entry, ask("bad"), "bad/unet")
    shutil.copy(models / "IF-II" / "unet" / path.name, path)
    refused(inference.entry, ask("bad"), "bad/unet")


def test_without_diffusers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'minimagen-cascade\[pretrained\]'"):
        unet_class()


def test_a_text_encoder_of_another_width_is_refused(
    models: Path, tmp_path: Path, refused: Refused
) -> None:
    folder = tmp_path / "parameters"
    folder.mkdir()
    (folder / "imagen.json").write_text('{"image_sizes": [32], "text_encoder_name": "t5_mini"}')
    stage = {"kind": "diffusers", "model": str(models / "sd1")}
    (folder / "unet_0.json").write_text(json.dumps(stage))
    (folder / "training.json").write_text('{"steps": 1}')
    (folder / "data.json").write_text("{}")
    refused(train.entry, ["-p", folder, "--DATASET", "shapes"], "text encoder", "diffusers:FOLDER")


def test_a_repository_is_fetched_without_pickles_and_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fnmatch import fnmatch

    import huggingface_hub

    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **more: asked.update(more) or "there"
    )
    fetched.cache_clear()
    assert fetched("owner/name") == Path("there")
    fetched.cache_clear()
    wanted = [
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors", "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors.index.json", "text_encoder/model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors", "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    others = [
        "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
        "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "safety_checker/model.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors", "run.py",
    ]  # fmt: skip
    patterns = asked["allow_patterns"]
    assert [f for f in wanted if not any(fnmatch(f, p) for p in patterns)] == []
    assert [f for f in others if any(fnmatch(f, p) for p in patterns)] == []
