"""Runs with CLIP and autoencoders: killed anywhere, resumed to the bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from minimagen import Imagen, ImagenConfig, TrainingConfig, UserError, train
from minimagen.shapes.dataset import embedded
from minimagen.storage.checkpoint import load_weights, save_checkpoint
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.training.finetuning import Source

UNET = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 1, "attn_head_dim": 8}
SMALL = {"image_size": 16, "block_out_channels": (8, 16), "norm_num_groups": 4}
TEXT = {"kind": "characters", "dim": 8, "depth": 1, "heads": 2}
CLIP = {"image_size": 16, "embed_dim": 8, "image": {"dims": (4, 8)}, "text": TEXT}
SAMPLING = {"timesteps": 2}
CASCADES: dict[str, dict[str, Any]] = {
    "clip": {
        "clip": CLIP,
        "text_encoder_name": "clip",
        "stages": [{"unet": UNET, "sampling": SAMPLING}],
    },
    "latent": {
        "autoencoders": [SMALL],
        "stages": [{"unet": UNET | {"channels": 4}, "autoencoder": 0, "sampling": SAMPLING}],
    },
    "gumbel": {
        "autoencoders": [SMALL | {"kind": "gumbel", "num_codes": 8, "codebook_dim": 4}],
        "stages": [{"kind": "tokens", "gpt": {"dim": 8, "depth": 1, "heads": 2}}],
    },
}

pytestmark = pytest.mark.usefixtures("one_thread")


def run(
    name: str, output: Path, resume: TrainingDirectory | None = None, steps: int = 4
) -> TrainingDirectory:
    config = ImagenConfig.read({"image_sizes": [16]} | CASCADES[name], name)
    training = TrainingConfig(
        batch_size=4, steps=steps, chckpt_num=2, sample_captions=("a red star",), precision="fp32"
    )
    data = embedded("shapes", size=16, epoch_size=64)
    return train(Imagen(config), data, training, output=output, resume=resume, device="cpu")


@pytest.mark.parametrize("name", CASCADES)
def test_a_run_that_stops_in_any_learner_is_resumed_to_the_bit(name: str, tmp_path: Path) -> None:
    whole = run(name, tmp_path / "whole")
    names = ImagenConfig.read({"image_sizes": [16]} | CASCADES[name], name).learner_names
    for stopped_in, learner in enumerate(names):
        stopped = TrainingDirectory(shutil.copytree(whole.path, tmp_path / f"stopped_in_{learner}"))
        shutil.rmtree(stopped.checkpoint(learner, 4))
        for later in names[stopped_in + 1 :]:  # they had not begun
            stopped.weights(later).unlink()
            for folder in stopped.tmp.glob(f"{later}_step_*"):
                shutil.rmtree(folder)
        resumed = run(name, tmp_path / f"resumed_in_{learner}", stopped)
        for each in names:
            one, two = (load_weights(d.weights(each)).tensors for d in (whole, resumed))
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one), (learner, each)


def test_a_stage_waits_for_what_it_is_trained_with(tmp_path: Path) -> None:
    data = embedded("shapes", size=16, epoch_size=64)

    def start(learners: list[str], output: Path, steps: int = 2) -> TrainingDirectory:
        config = ImagenConfig.read({"image_sizes": [16]} | CASCADES["latent"], "latent")
        training = TrainingConfig(batch_size=4, steps=steps, sample_captions=("a red star",))
        return train(Imagen(config), data, training, learners=learners, output=output, device="cpu")

    with pytest.raises(UserError, match="stage 0 is trained with autoencoder_0, which is not"):
        start(["unet_0"], tmp_path / "alone")
    assert not (tmp_path / "alone").exists()
    first = start(["autoencoder_0"], tmp_path / "both")
    frozen = load_weights(first.weights("autoencoder_0")).tensors
    both = start(["unet_0"], tmp_path / "both")
    imagen = Imagen.from_directory(both.path)
    kept = dict(imagen.frozen[0].named_parameters())
    assert all(torch.equal(kept[name], tensor) for name, tensor in frozen.items())


def test_a_cascade_with_parts_is_a_source_a_teacher_and_resumed(tmp_path: Path) -> None:
    source = run("clip", tmp_path / "source", steps=2)
    data = embedded("shapes", size=16, epoch_size=64)
    training = TrainingConfig(
        batch_size=4, steps=4, chckpt_num=2, sample_captions=("a red star",), precision="fp32"
    )

    def config() -> ImagenConfig:
        return ImagenConfig.read({"image_sizes": [16]} | CASCADES["clip"], "clip")

    whole = train(
        Imagen(config()), data, training, output=tmp_path / "fine", source=Source(source),
        device="cpu",
    )  # fmt: skip
    stopped = TrainingDirectory(shutil.copytree(whole.path, tmp_path / "stopped"))
    for step in (2, 4):  # stopped in the CLIP; the stage has only its start
        shutil.rmtree(stopped.checkpoint("unet_0", step), ignore_errors=True)
    shutil.rmtree(stopped.checkpoint("clip", 4))
    start = load_weights(source.weights("unet_0"))
    tensors = {
        f"{kind}.{n}": t.clone() for kind in ("model", "ema") for n, t in start.tensors.items()
    }
    run_of = json.loads((whole.checkpoint("unet_0", 4) / "state.json").read_text())["run"]
    run_of["stage"]["text_encoder_fingerprint"] = "that of the source"
    state = {"step": 0, "best_loss": None, "ema_updates": 0, "run": run_of}
    save_checkpoint(stopped.checkpoint("unet_0", 0), tensors, state)
    kept = read_parameters(stopped.parameters)
    resumed = train(
        Imagen(config()), data, kept.training, output=tmp_path / "resumed", resume=stopped,
        device="cpu",
    )  # fmt: skip
    one, two = (load_weights(d.weights("unet_0")).tensors for d in (whole, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)
    few = config().replace(stages=[config().stages[0].distilled(1)])
    taught = train(
        Imagen(few), data, training.replace(steps=1), output=tmp_path / "few", teacher=source,
        device="cpu",
    )  # fmt: skip
    assert Imagen.from_directory(taught.path).config.stages[0].distilled_steps == 1


def test_a_latent_stage_samples_what_its_autoencoder_decodes(tmp_path: Path) -> None:
    directory = run("latent", tmp_path / "run", steps=2)
    imagen = Imagen.from_directory(directory.path)
    (stage,) = imagen.stages
    seen: list[torch.Tensor] = []
    images = next(
        imagen.sample_batches(
            ["a red star"], imagen.samplings(), [3], callback=lambda i, step, n, x: seen.append(x)
        )
    )[-1]
    assert seen[-1].shape == (1, 4, 8, 8)  # latents, that nothing clamps
    assert seen[-1].abs().max() > 1.0
    decoded = stage.autoencoder.decode(seen[-1]).clamp(-1.0, 1.0)
    torch.testing.assert_close(images, decoded.cpu(), rtol=0, atol=1e-5)  # not in bfloat16


def test_a_stage_refuses_another_autoencoder(tmp_path: Path) -> None:
    one, other = (
        run("latent", tmp_path / "one", steps=2),
        run("latent", tmp_path / "other", steps=4),
    )
    shutil.copy(other.weights("autoencoder_0"), one.weights("autoencoder_0"))
    with pytest.raises(UserError, match="the autoencoder was another one"):
        Imagen.from_directory(one.path)
