"""Runs with CLIP and autoencoders: killed anywhere, resumed to the bit."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from minimagen import DataConfig, Imagen, ImagenConfig, TrainingConfig, UserError, train
from minimagen.autoencoders.build import load
from minimagen.autoencoders.cache import LatentCache, in_blocks
from minimagen.autoencoders.files import save_folder
from minimagen.autoencoders.training import TrainedAutoencoder
from minimagen.cli.dry_run import Ranks, _column
from minimagen.cli.next_commands import print_next
from minimagen.cli.train import entry as train_entry
from minimagen.cli.train import parse_flags
from minimagen.config.cascade_sizes import sizes_of_ratio
from minimagen.data.open import load_dataset
from minimagen.draws import Draws
from minimagen.images import Batch, resize_clamped
from minimagen.shapes.dataset import embedded
from minimagen.shapes.drawing import COLORS
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.distilled import DistilledStage
from minimagen.stages.tokens import TokenStage
from minimagen.storage.checkpoint import load_weights, save_checkpoint
from minimagen.storage.directory import Parameters, TrainingDirectory, read_parameters
from minimagen.training.clock import planned
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
    "fsq": {
        "autoencoders": [SMALL | {"kind": "fsq"}],
        "stages": [
            {
                "kind": "tokens",
                "gpt": {"dim": 8, "depth": 1, "heads": 2, "embedding": "both", "head": "both"},
            }
        ],
    },
    "enlarged": {
        "image_sizes": [16, 32],
        "autoencoders": [SMALL | {"kind": "fsq"}],
        "stages": [
            {"kind": "tokens", "gpt": {"dim": 8, "depth": 1, "heads": 2}},
            {"unet": UNET, "reconstructed_low_res": True, "sampling": SAMPLING},
        ],
    },
    "flow": {
        "stages": [
            {
                "unet": UNET,
                "schedule": {"kind": "flow"},
                "prediction": "u",
                "loss": {"space": "u", "error": "l1", "weight": "simple", "times": "logit_normal"},
                "sampling": SAMPLING,
            }
        ]
    },
    "labels": {
        "text_encoder_name": "labels",
        "labels": list(COLORS),
        "stages": [{"unet": UNET, "sampling": SAMPLING}],
    },
}

pytestmark = pytest.mark.usefixtures("one_thread")


def run(
    name: str,
    output: Path,
    resume: TrainingDirectory | None = None,
    steps: int = 4,
    learners: list[str] | None = None,
) -> TrainingDirectory:
    config = ImagenConfig.read({"image_sizes": [16]} | CASCADES[name], name)
    training = TrainingConfig(
        batch_size=4, steps=steps, chckpt_num=2, sample_captions=("red",), precision="fp32"
    )
    column = "color" if name == "labels" else "text"
    data = embedded("shapes", size=config.data_size[0], epoch_size=64, caption_column=column)
    return train(
        Imagen(config), data, training, learners=learners, output=output, resume=resume,
        device="cpu",
    )  # fmt: skip


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


def test_super_resolution_is_trained_on_reconstructions_as_it_gets_them(tmp_path: Path) -> None:
    directory = run("enlarged", tmp_path / "run", steps=2)
    tokens, stage = Imagen.from_directory(directory.path).stages
    values = ImagenConfig.read({"image_sizes": [16]} | CASCADES["enlarged"], "x").model_dump()
    values["stages"][1]["reconstructed_low_res"] = False
    plain = Imagen(ImagenConfig.read(values, "x")).stages[1]
    assert isinstance(stage, DiffusionStage) and isinstance(plain, DiffusionStage)
    plain.load_state_dict(stage.state_dict())
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    small = resize_clamped(images, (16, 16))
    assert isinstance(tokens, TokenStage)
    left = in_blocks(tokens.autoencoder.reconstruct, small).clamp(-1.0, 1.0)  # to the bit
    assert (left - small).abs().mean() > 0.01
    text = torch.randn(4, 3, 128), torch.ones(4, 3, dtype=torch.bool)

    def loss(of: DiffusionStage, low_res: Tensor) -> Tensor:
        return of.loss(Batch(images, *text, low_res=low_res), Draws(0, 1, 0, 4))

    assert torch.equal(loss(stage, small), loss(plain, left))
    assert not torch.equal(loss(stage, small), loss(plain, small))
    assert torch.equal(stage.as_sampled(small)[1:3], stage.as_sampled(small[1:3]))
    stage.to("meta")
    assert all(each.is_meta for each in tokens.autoencoder.parameters())  # it moves along


@pytest.mark.parametrize("crop", [None, 16])
def test_a_distilled_stage_enlarges_reconstructions_too(crop: int | None) -> None:
    """Behind latents as well; the autoencoder sees whole images, and crops are cut out later."""
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    small = resize_clamped(images, (16, 16))
    text = torch.randn(2, 3, 128), torch.ones(2, 3, dtype=torch.bool)

    def student(reconstructed: bool) -> DistilledStage:
        stages = [
            {"unet": UNET | {"channels": 4}, "autoencoder": 0},
            {"unet": UNET, "reconstructed_low_res": reconstructed, "crop": crop},
        ]
        values = {"image_sizes": [16, 32], "autoencoders": [SMALL], "stages": stages}
        config = ImagenConfig.read(values, "x")
        few = config.replace(stages=[stage.distilled(1) for stage in config.stages])
        stage, teacher = Imagen(few).stages[1], Imagen(config).stages[1]
        assert isinstance(stage, DistilledStage) and isinstance(teacher, DiffusionStage)
        stage.learn_from(teacher)
        return stage

    def loss(of: DistilledStage, low_res: Tensor) -> Tensor:
        return of.loss(Batch(images, *text, low_res=low_res), Draws(0, 1, 0, 2))

    one, plain = student(True), student(False)
    assert torch.equal(loss(one, small), loss(plain, one.as_sampled(small)))
    assert not torch.equal(loss(one, small), loss(plain, small))


def test_reconstructions_need_their_autoencoder(tmp_path: Path) -> None:
    one, other = (run("enlarged", tmp_path / n, steps=k) for n, k in (("one", 2), ("other", 4)))
    assert Imagen.from_directory(one.path).config.stages_with("autoencoder_0") == [0, 1]
    with pytest.raises(UserError, match="stage 1 is trained with autoencoder_0, which is not"):
        run("enlarged", tmp_path / "alone", learners=["unet_1"])
    for name in ("autoencoder_0", "gpt_0"):
        shutil.copy(other.weights(name), one.weights(name))
    shutil.copy(other.parameters / "autoencoder_0.json", one.parameters)
    with pytest.raises(UserError, match=r"unet_1\.safetensors.*the autoencoder was another one"):
        Imagen.from_directory(one.path)


@pytest.mark.parametrize(
    ("first", "why"),
    [(True, "there is no stage before it"), (False, "no autoencoder in the stage before it")],
)
def test_reconstructions_of_nothing_are_refused(first: bool, why: str) -> None:
    stages = [{"unet": UNET, "reconstructed_low_res": first}, {"unet": UNET}]
    stages[1]["reconstructed_low_res"] = not first
    with pytest.raises(UserError, match=why):
        ImagenConfig.read({"image_sizes": [16, 32], "stages": stages}, "x")


def test_a_cascade_is_shared_with_what_its_autoencoder_measured(tmp_path: Path) -> None:
    config = ImagenConfig.read({"image_sizes": [16]} | CASCADES["latent"], "latent")
    imagen = Imagen(config)
    training = TrainingConfig(batch_size=4, steps=2, sample_captions=("a star",), precision="fp32")
    data = embedded("shapes", size=16, epoch_size=64)
    trained = train(imagen, data, training, output=tmp_path / "run", device="cpu")
    shared = Imagen.from_pretrained(imagen.eval().save_pretrained(tmp_path / "shared"))
    assert shared.config == Imagen.from_directory(trained.path).config
    assert shared.config.autoencoders[0].latents_mean is not None
    images = [
        each.sample("a red star", seed=1, precision="fp32", progress=False, output_type="pt")
        for each in (imagen, shared)
    ]
    assert torch.equal(*images)


def test_a_stage_goes_on_by_minutes_again_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The autoencoder was trained by steps, and stays as it is: the printed command says so."""
    directory = run("latent", tmp_path / "run", steps=2)
    print_next(directory, parse_flags([]))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("continue:")]
    argv = shlex.split(line)
    argv = [*argv[argv.index("train") + 1 :], "--MINUTES", "0.02", "--DEVICE", "cpu"]
    assert "unet_0" in argv
    for _ in range(2):
        assert train_entry(argv) == 0
    training = read_parameters(directory.parameters).training
    assert training.steps_of(0) == 2 and (training.steps_of(1) or 0) > 2
    assert planned(0, training.revisions[0]) == planned(0, training.revisions[1]) == (2, 2.0)


def test_sizes_that_another_autoencoder_cannot_have_are_refused(tmp_path: Path) -> None:
    """It is known when it is loaded: until then any size seems to fit."""
    autoencoder = run("latent", tmp_path / "run", steps=2).path / "vae"
    save_folder(load(autoencoder.parent), autoencoder)
    values = {"image_sizes": [16]} | CASCADES["latent"]
    stage = values["stages"][0] | {"autoencoder": str(autoencoder)}
    imagen = Imagen(ImagenConfig.read(values | {"autoencoders": [], "stages": [stage]}, "test"))
    size = sizes_of_ratio(imagen.config, 2.4)[0]
    step = imagen.stages[0].autoencoder.factor * imagen.config.stages[0].divisor
    assert any(side % step for side in size)
    with pytest.raises(UserError, match=f"not divisible by {step}"):
        imagen.sample("a red star", aspect_ratio=2.4, progress=False)

    def cost(config: ImagenConfig) -> Any:
        training = TrainingConfig(steps=1).for_learners(len(config.learner_names))
        parameters = Parameters(config, training, DataConfig())
        return _column(parameters, 0, config.stages[0], 12, Ranks(1, False))

    assert cost(imagen.config) == cost(ImagenConfig.read(values, "own"))


def test_a_stage_goes_on_by_steps_again_and_again(tmp_path: Path) -> None:
    """The autoencoder's steps stay what they are, whatever the stage is asked for."""
    directory = run("latent", tmp_path / "run", steps=2)
    resume = ["-rd", str(directory.path), "-ip", "--LEARNERS", "unet_0", "--DEVICE", "cpu"]
    for steps in ("3", "4"):
        assert train_entry([*resume, "--STEPS", steps]) == 0
    assert read_parameters(directory.parameters).training.steps == (2, 4)


def test_a_clip_is_resumed_only_as_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jitter and prompts change its weights, though any weights can be used with any of them."""
    directory = run("clip", tmp_path / "run", learners=["clip"])
    file = directory.parameters / "clip.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"jitter": 0.5}))
    resume = ["-rd", str(directory.path), "--LEARNERS", "clip", "--STEPS", "5", "--DEVICE", "cpu"]
    assert train_entry([*resume, "-o", str(tmp_path / "longer")]) == 2
    assert "trained_with.jitter was 0.0, is 0.5" in capsys.readouterr().err


def test_an_autoencoder_is_measured_once_however_often_its_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine it would be another one in the last bits, and not the stage's any more."""
    directory = run("latent", tmp_path / "run", steps=2)
    measured: list[str] = []
    conclude = TrainedAutoencoder.conclude

    def counted(self: TrainedAutoencoder, *batches: Any) -> list[str]:
        measured.append(self.name)
        return conclude(self, *batches)

    monkeypatch.setattr(TrainedAutoencoder, "conclude", counted)
    resume = ["-rd", str(directory.path), "--DEVICE", "cpu"]
    assert train_entry([*resume, "-ip", "--STEPS", "2,3"]) == 0 and measured == []
    assert train_entry([*resume, "-o", str(tmp_path / "longer"), "--STEPS", "3,3"]) == 2
    assert train_entry([*resume, "-ip", "--LEARNERS", "autoencoder_0", "--STEPS", "3"]) == 2


def test_a_stage_is_fine_tuned_with_the_autoencoder_of_its_source(tmp_path: Path) -> None:
    source = run("latent", tmp_path / "source", steps=2)
    tuned = ["--FROM", str(source.path), "-o", str(tmp_path / "tuned"), "--DEVICE", "cpu"]
    assert train_entry([*tuned, "--LEARNERS", "unet_0", "--STEPS", "2"]) == 0
    again = ["-rd", str(tmp_path / "tuned"), "-ip", "--LEARNERS", "unet_0", "--STEPS", "3"]
    assert train_entry([*again, "--DEVICE", "cpu"]) == 0
    parts = [load_weights(d / "state_dicts" / "autoencoder_0.safetensors").tensors
             for d in (source.path, tmp_path / "tuned")]  # fmt: skip
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def test_a_part_is_trained_on_only_with_the_stages_that_its_source_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, part in (("latent", "autoencoder_0"), ("clip", "clip")):
        source = run(name, tmp_path / name, steps=2)
        tuned = ["--FROM", str(source.path), "--DEVICE", "cpu", "--STEPS", "2"]
        alone = [*tuned, "-o", str(tmp_path / "alone"), "--LEARNERS"]
        assert train_entry([*alone, part]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"does not fit another one; give --LEARNERS {part},unet_0 to train both" in line
        assert not (tmp_path / "alone").exists()
    assert train_entry([*tuned, "-o", str(tmp_path / "both")]) == 0
    Imagen.from_directory(tmp_path / "both")


def folder_of_images(folder: Path) -> Path:
    """Twelve captioned images of one's own."""
    folder.mkdir()
    for i in range(12):
        ramp = torch.arange(20, dtype=torch.uint8).mul(11).add(7 * i).expand(20, -1)
        Image.fromarray(ramp.numpy()).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    return folder


@pytest.mark.parametrize("name", ["latent", "gumbel"])
def test_latents_of_files_are_kept_and_a_resumed_run_finds_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mirrored or not, each is encoded once; the weights are those of a run that kept nothing."""
    data = load_dataset(folder_of_images(tmp_path / "images"), 16, flip=True)

    def trained(output: str, resume: TrainingDirectory | None = None) -> TrainingDirectory:
        config = ImagenConfig.read({"image_sizes": [16]} | CASCADES[name], name)
        training = TrainingConfig(
            batch_size=4, steps=6, chckpt_num=3, sample_captions=("a red star",), precision="fp32"
        )
        return train(
            Imagen(config), data, training, data=DataConfig(valid_num=2), resume=resume,
            output=tmp_path / output, device="cpu",
        )  # fmt: skip

    whole = trained("whole")
    (stage,) = (n for n in whole_names(whole) if not n.startswith("autoencoder"))
    stopped = TrainingDirectory(shutil.copytree(whole.path, tmp_path / "stopped"))
    shutil.rmtree(stopped.checkpoint(stage, 6))
    encoded: list[int] = []
    block = LatentCache._fresh

    def counted(cache: LatentCache, images: Tensor) -> Tensor:
        encoded.append(len(images))
        return block(cache, images)

    monkeypatch.setattr(LatentCache, "_fresh", counted)
    resumed = trained("resumed", stopped)
    assert not encoded  # all of them were on disk
    monkeypatch.setenv("MINIMAGEN_CACHE", str(tmp_path / "empty"))
    anew = trained("anew")
    assert encoded
    for other in (resumed, anew):
        one, two = (load_weights(d.weights(stage)).tensors for d in (whole, other))
        assert all(torch.equal(one[key], two[key]) for key in one)


def whole_names(directory: TrainingDirectory) -> tuple[str, ...]:
    return read_parameters(directory.parameters).imagen.learner_names


def test_a_part_whose_training_has_not_ended_is_refused_by_name(tmp_path: Path) -> None:
    directory = run("latent", tmp_path / "latent", steps=2)
    assert load(str(directory.path)).config.latents_mean is not None
    named = dict(CASCADES["latent"]) | {"autoencoders": []}
    named["stages"] = [named["stages"][0] | {"autoencoder": str(directory.path)}]
    data = embedded("shapes", size=16, epoch_size=64)
    training = TrainingConfig(batch_size=4, steps=1, precision="fp32")

    def start(values: dict[str, Any], output: str) -> TrainingDirectory:
        config = ImagenConfig.read({"image_sizes": [16]} | values, "named")
        return train(Imagen(config), data, training, output=tmp_path / output, device="cpu")

    start(named, "on_it")
    path = directory.parameters / "autoencoder_0.json"
    values = json.loads(path.read_text())  # as if it had been killed before it measured
    path.write_text(json.dumps(values | {"latents_mean": None, "latents_std": None}))
    with pytest.raises(UserError, match="training of autoencoder_0 in .* has not ended"):
        start(named, "refused")
    with pytest.raises(UserError, match="stage 0 is trained with autoencoder_0, which is not"):
        config = ImagenConfig.read({"image_sizes": [16]} | CASCADES["latent"], "latent")
        train(Imagen(config), data, training, learners=["unet_0"], output=directory.path)
    clip = run("clip", tmp_path / "clip", steps=2)
    by_clip = {"stages": CASCADES["clip"]["stages"], "text_encoder_name": str(clip.path)}
    start(by_clip, "on_clip")
    fine = train(
        Imagen(ImagenConfig.read({"image_sizes": [16]} | CASCADES["clip"], "clip")), data, training,
        output=tmp_path / "fine", source=Source(clip), stages=[0], device="cpu",
    )  # fmt: skip
    start(by_clip | {"text_encoder_name": str(fine.path)}, "on_fine")  # its CLIP is the source's
    path = clip.parameters / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": [9, 2]}))
    with pytest.raises(UserError, match="training of clip in .* has not ended"):
        start(by_clip, "refused")


ANY_BATCH: dict[str, dict[str, Any]] = CASCADES | {
    "latent and super-resolution": {
        "image_sizes": [16, 32],
        "autoencoders": [SMALL],
        "stages": [*CASCADES["latent"]["stages"], {"unet": UNET, "sampling": SAMPLING}],
    },
    "tokens and super-resolution": {
        "image_sizes": [16, 32],
        "autoencoders": [SMALL | {"kind": "fsq"}],
        "stages": [
            {"kind": "tokens", "autoencoder": 0, "gpt": {"dim": 8, "depth": 1, "heads": 2}},
            {"unet": UNET, "sampling": SAMPLING},
        ],
    },
}


@pytest.mark.parametrize("name", ANY_BATCH)
def test_a_seed_gives_its_image_in_any_batch(name: str, wake: Any) -> None:
    """In every way of generating; fp32, at most one step of 255 apart."""
    imagen = wake(Imagen(ImagenConfig.read({"image_sizes": [16]} | ANY_BATCH[name], name))).eval()
    captions = ["red", "blue", "red", "blue", "blue"]
    how = {"precision": "fp32", "output_type": "pt", "progress": False}
    whole = imagen.sample(captions, seed=7, **how)
    for size in (1, 2):
        split = imagen.sample(captions, seed=7, batch_size=size, **how)
        assert float((whole - split).abs().max()) <= 1 / 255
    assert float((whole[1] - whole[3]).abs().max()) > 1 / 255  # the seed does something
