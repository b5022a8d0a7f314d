"""Whole images, text and single calls equal those of diffusers' own pipelines, with its noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from minimagen import Imagen
from minimagen.draws import SeededNoise
from minimagen.stages.diffusers import DiffusersStage
from minimagen.text.encoding import encode_batch

CAPTIONS = ["a large red star", "the blue dog on a sea of red cats"]
SEEDS = [3, 8]
NEAR = {"rtol": 0.0, "atol": 1e-4}
FP32: dict[str, Any] = {"precision": "fp32"}


def ours(path: str, stages: int = 1, captions: Sequence[str] = CAPTIONS, **settings: Any) -> Any:
    """The images of the last stage, [n 3 h w] in [-1, 1]."""
    imagen = Imagen.from_pretrained(path)
    names = ("negative", "init_images", "strength")
    options = {name: settings.pop(name) for name in names if name in settings}
    samplings = imagen.samplings(**settings)
    batches = imagen.sample_batches(captions, samplings, SEEDS, **options, **FP32)
    return next(batches)[-1]


def start(shape: Sequence[int], stage: int = 0, name: str = "start") -> Tensor:
    return SeededNoise(SEEDS, stage)(name, shape)


def theirs(folder: Path, scheduler: Any, **changes: Any) -> StableDiffusionPipeline:
    """Stable Diffusion with another scheduler, made of the folder's own."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    changes = {"clip_sample": False} | changes  # as the files of Stable Diffusion have it
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **changes)
    pipeline.scheduler.set_timesteps(10)
    return pipeline


def images_of(pipeline: Any, **arguments: Any) -> Tensor:
    """What a pipeline makes of the captions, in [-1, 1]."""
    return 2 * pipeline(prompt=CAPTIONS, output_type="pt", **arguments).images - 1


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_text_is_that_of_the_pipeline_padding_included(models: Path, name: str) -> None:
    captions = ["", "a red star", " ".join(["the blue dog"] * 40)]
    pipeline = theirs(models / name, DDIMScheduler)
    wanted, empty = pipeline.encode_prompt(captions, "cpu", 1, True)
    imagen = Imagen.from_pretrained(models / name)
    text = encode_batch(imagen.text_encoder, captions)
    imagen.stages[0].encode_own(imagen.text_encoder)
    network = imagen.stages[0].unet
    found = network.encode_text(*text.pair, torch.tensor([False] * 3)).embeds
    torch.testing.assert_close(found, wanted, **NEAR)
    dropped = network.encode_text(*text.pair, torch.tensor([True] * 3)).embeds
    torch.testing.assert_close(dropped, empty, **NEAR)
    assert imagen.text_encoder.notes() == ["1 different captions were cut to 77 tokens"]


def test_stable_diffusion_1_and_2_pad_with_different_tokens(models: Path) -> None:
    texts = [Imagen.from_pretrained(models / name).text_encoder for name in ("sd1", "sd2")]
    one, two = (encoder.encode(["a red star"])[0] for encoder in texts)
    assert len(one) == len(two) == 77
    real = texts[0].inspect(["a red star"])[0].tokens
    torch.testing.assert_close(one[:real], two[:real], **NEAR)  # the same weights read them
    assert not torch.allclose(one[real:], two[real:], atol=0.1)
    assert texts[0].fingerprint != texts[1].fingerprint


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("number", [0, 501, 999])
def test_one_call_of_the_network_is_diffusers(models: Path, name: str, number: int) -> None:
    imagen = Imagen.from_pretrained(models / name)
    stage = imagen.stages[0]
    assert isinstance(stage, DiffusersStage)
    stage.encode_own(imagen.text_encoder)
    text = encode_batch(imagen.text_encoder, CAPTIONS)
    x_t = start((4, 16, 16))
    denoise = stage.denoiser(*text.pair, None, stage.settings(guidance_scale=1.0))
    pipeline = theirs(models / name, DDIMScheduler)
    embeds, _ = pipeline.encode_prompt(CAPTIONS, "cpu", 1, False)
    with torch.no_grad():
        found = denoise(x_t, torch.full((2,), (number + 1) / 1000, dtype=torch.float64))
        output = pipeline.unet(x_t, number, embeds).sample
    wanted = pipeline.scheduler.step(output, number, x_t)
    torch.testing.assert_close(found, wanted.pred_original_sample, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ten_steps_of_ddim_are_the_images_of_the_pipeline(
    models: Path, name: str, spacing: str
) -> None:
    pipeline = theirs(models / name, DDIMScheduler, timestep_spacing=spacing)
    wanted = images_of(
        pipeline, num_inference_steps=10, guidance_scale=7.5, latents=start((4, 16, 16))
    )
    settings = {"sampler": "ddim", "timesteps": 10, "guidance_scale": 7.5, "spacing": spacing}
    torch.testing.assert_close(ours(models / name, **settings), wanted, **NEAR)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_dpm_solver_is_the_pipeline_s(models: Path, name: str, spacing: str) -> None:
    pipeline = theirs(models / name, DPMSolverMultistepScheduler, timestep_spacing=spacing)
    wanted = images_of(
        pipeline, num_inference_steps=10, guidance_scale=7.5, latents=start((4, 16, 16))
    )
    settings = {"timesteps": 10, "guidance_scale": 7.5, "spacing": spacing}
    torch.testing.assert_close(ours(models / name, **settings), wanted, **NEAR)


def test_zero_terminal_snr_is_sampled_as_by_the_pipeline(models: Path, tmp_path: Path) -> None:
    pipeline = theirs(
        models / "sd2", DDIMScheduler, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    pipeline.save_pretrained(tmp_path / "zero")
    wanted = images_of(
        pipeline, num_inference_steps=10, guidance_scale=7.5, latents=start((4, 16, 16))
    )
    settings = {"sampler": "ddim", "timesteps": 10, "guidance_scale": 7.5}
    torch.testing.assert_close(ours(tmp_path / "zero", **settings), wanted, **NEAR)


def test_a_negative_caption_takes_the_place_of_the_empty_one(models: Path) -> None:
    pipeline = theirs(models / "sd1", DDIMScheduler)
    negative = "a small dog"
    wanted = images_of(
        pipeline,
        num_inference_steps=5,
        guidance_scale=5.0,
        latents=start((4, 16, 16)),
        negative_prompt=[negative] * 2,
    )
    settings = {"sampler": "ddim", "timesteps": 5, "guidance_scale": 5.0, "spacing": "own"}
    found = ours(models / "sd1", negative=negative, **settings)
    torch.testing.assert_close(found, wanted, **NEAR)
    assert not torch.allclose(ours(models / "sd1", **settings), wanted, atol=1e-3)


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
def test_image_to_image_is_the_pipeline_s(
    models: Path, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = StableDiffusionImg2ImgPipeline(
        **theirs(models / "sd1", DDIMScheduler).components, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    images = start((3, 32, 32), name="given").tanh()
    with torch.no_grad():  # ours begins with the mean, theirs with a sample of the autoencoder
        latents = (
            pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor
        )
    module = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img.randn_tensor"
    monkeypatch.setattr(module, lambda shape, **_: start(shape[1:]))
    wanted = images_of(
        pipeline, image=latents, strength=strength, num_inference_steps=10, guidance_scale=7.5
    )
    settings = {"sampler": "ddim", "timesteps": 10, "guidance_scale": 7.5, "spacing": "own"}
    found = ours(models / "sd1", init_images=images, strength=strength, **settings)
    torch.testing.assert_close(found, wanted, **NEAR)


class IF:
    """IF's two pipelines with a scheduler whose noise is ours."""

    def __init__(
        self, models: Path, scheduler: Any, monkeypatch: pytest.MonkeyPatch, **changes: Any
    ) -> None:
        loaded = {"safety_checker": None, "watermarker": None}
        self.base = IFPipeline.from_pretrained(models / "IF-I", **loaded)
        second = {"text_encoder": None, "tokenizer": None}
        self.large = IFSuperResolutionPipeline.from_pretrained(models / "IF-II", **loaded, **second)
        for pipeline in (self.base, self.large):
            pipeline.set_progress_bar_config(disable=True)
            pipeline.scheduler = scheduler.from_config(
                pipeline.scheduler.config, **({"clip_sample": False} | changes)
            )
        names = "pipeline_if", "pipeline_if_superresolution"
        for stage, name in enumerate(names):
            module = f"diffusers.pipelines.deepfloyd_if.{name}.randn_tensor"
            calls = iter(["start", "aug"])
            monkeypatch.setattr(
                module, lambda shape, s=stage, c=calls, **_: start(shape[1:], s, next(c))
            )

    def text(self) -> dict[str, Any]:
        prompt, negative = self.base.encode_prompt(CAPTIONS, True, clean_caption=False)
        return {"prompt_embeds": prompt, "negative_prompt_embeds": negative, "output_type": "pt"}

    def base_images(self, steps: int) -> Tensor:
        return self.base(num_inference_steps=steps, guidance_scale=1.5, **self.text()).images

    def images(self, steps: int) -> tuple[Tensor, Tensor]:
        """Those of both stages, not clamped; the second one sees clamped ones."""
        small, text = self.base_images(steps), self.text()
        large = self.large(
            image=small.clamp(-1, 1),
            num_inference_steps=steps,
            guidance_scale=1.5,
            noise_level=250,
            **text,
        ).images
        return small, large


def test_if_both_stages_are_the_pipelines(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = IF(models, DDIMScheduler, monkeypatch).images(10)
    imagen = Imagen.from_pretrained(f"{models / 'IF-I'},{models / 'IF-II'}")
    assert [each.guidance_scale for each in imagen.samplings()] == [7.0, 4.0]
    settings = {"sampler": "ddim", "timesteps": 10, "thresholding": "none", "guidance_scale": 1.5}
    last: dict[int, Tensor] = {}

    def keep(stage: int, step: int, steps: int, x_0_hat: Tensor) -> None:
        last[stage] = x_0_hat  # of the last step: the image before it is clamped

    samplings = imagen.samplings(**settings)
    small, large = next(imagen.sample_batches(CAPTIONS, samplings, SEEDS, callback=keep, **FP32))
    assert small.shape == (2, 3, 16, 16) and large.shape == (2, 3, 32, 32)
    for stage in (0, 1):
        torch.testing.assert_close(last[stage], wanted[stage], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(large, wanted[1].clamp(-1, 1), **NEAR)


def test_if_s_own_sampler_with_clipping_is_ours(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDPM with the posterior's variance: 10 steps, their noise, estimates clamped to [-1, 1]."""
    clipping = IF(models, DDPMScheduler, monkeypatch, clip_sample=True)
    noise = iter(range(9))
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    monkeypatch.setattr(module, lambda shape, **_: start(shape[1:], 0, next(noise)))
    wanted = clipping.base_images(10)
    imagen = Imagen.from_pretrained(models / "IF-I")
    samplings = imagen.samplings(
        sampler="ddpm", timesteps=10, thresholding="static", guidance_scale=1.5
    )
    (small,) = next(imagen.sample_batches(CAPTIONS, samplings, SEEDS, **FP32))
    torch.testing.assert_close(small, wanted, **NEAR)
