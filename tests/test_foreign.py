"""What users of diffusers type first: each line is answered with what to type here."""

import inspect
import re
from dataclasses import fields

import pytest
import torch

from minimagen import editing
from minimagen.arguments import Options
from minimagen.config import ImagenConfig, SamplingConfig
from minimagen.errors import UserError
from minimagen.imagen import Imagen

pytestmark = pytest.mark.usefixtures("one_thread")
UNET = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_head_dim": 4}


@pytest.fixture
def imagen(text_encoder):
    return Imagen(ImagenConfig(image_sizes=[8], stages=[{"unet": UNET}]), text_encoder).eval()


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("prompt", "captions"),
        ("num_inference_steps", "timesteps"),
        ("negative_prompt", "negative"),
        ("generator", "seed"),
        ("torch_dtype", "precision"),
    ],
)
def test_what_a_user_of_diffusers_types_leads_to_our_argument(imagen, name, own):
    ours = {*inspect.signature(imagen.sample).parameters, *SamplingConfig.model_fields}
    assert own in ours | {field.name for field in fields(Options)}
    with pytest.raises(UserError, match=f"no argument '{name}'; give `{own}` instead"):
        imagen.sample(**{name: "a red star"})


@pytest.mark.parametrize("name", ["image", "mask_image", "return_dict"])
def test_an_argument_without_a_counterpart_is_answered_too(imagen, name):
    with pytest.raises(UserError, match=f"no argument '{name}'; (call|leave)") as error:
        imagen.sample("a red star", **{name: None})
    for function in re.findall(r"minimagen\.editing\.(\w+)", str(error.value)):
        assert callable(getattr(editing, function))


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("__call__", ["a red star"], r"call `sample\(captions\)`, .* without `.images`"),
        ("half", [], 'precision="bf16"'),
        ("enable_model_cpu_offload", [], 'device="cuda"'),
        ("enable_sequential_cpu_offload", ["cuda"], 'device="cuda"'),
        ("enable_attention_slicing", ["max"], "`batch_size`"),
        ("enable_xformers_memory_efficient_attention", [], "`batch_size`"),
        ("enable_vae_tiling", [], "`batch_size`"),
        ("set_progress_bar_config", [], "progress=False"),
        ("load_lora_weights", ["some/lora"], r"minimagen.train\(imagen, dataset, config\)"),
    ],
)
def test_methods_of_diffusers_pipelines_are_answered_in_one_line(imagen, method, arguments, words):
    with pytest.raises(UserError, match=words) as error:
        getattr(imagen, method)(*arguments)
    assert "\n" not in str(error.value)


def test_a_scheduler_is_answered_with_the_name_of_a_sampler(imagen):
    with pytest.raises(UserError, match="the sampler is an argument") as error:
        imagen.scheduler.config  # noqa: B018  # as DPMSolver.from_config(pipe.scheduler.config)
    (call,) = re.findall("`sample(.*)`", str(error.value))
    settings = dict(re.findall(r'(\w+)="?([^",)]+)', call))
    imagen.sample("a red star", progress=False, **settings | {"timesteps": 1})


def test_float64_weights_are_refused(imagen):
    with pytest.raises(UserError, match="the weights were made float64; load the cascade anew"):
        imagen.to(torch.float64).sample("a red star")


def test_float16_weights_are_refused(imagen):
    with pytest.raises(UserError, match="made float16; load the cascade anew"):
        imagen.to(torch.float16).sample("a red star")


def test_the_type_of_a_cascade_is_not_chosen_when_it_is_loaded():
    with pytest.raises(UserError, match="no argument 'torch_dtype'; `sample` takes `precision`"):
        Imagen.from_pretrained("anything", torch_dtype=torch.float16)
