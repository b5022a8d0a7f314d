"""Tiny random models in diffusers' format, written with diffusers' own classes.

For the benchmark and the tests: real weights are not needed to compare two programs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from minimagen.text.names import T5_MINI

BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD1: Any = PNDMScheduler(**BETAS, set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True)
SD2 = DDIMScheduler(
    **BETAS,
    set_alpha_to_one=False,
    steps_offset=1,
    clip_sample=False,
    prediction_type="v_prediction",
)
IF: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small"}
WORDS = "a an the red blue star cat dog on of sea photograph large small".split()
SMALL: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}


def clip_tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    """Letters and a few words, with CLIP's tokens for begin and end."""
    letters = [chr(i) for i in range(33, 127)]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
    merges = list(dict.fromkeys(merges))
    tokens = [*letters, *(f"{x}</w>" for x in letters), *(m.replace(" ", "") for m in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    pairs: Any = [tuple(m.split()) for m in merges]
    return CLIPTokenizer(
        json.loads((folder / "vocab.json").read_text()),
        pairs,
        pad_token=pad,
        model_max_length=77,
    )


def write_sd(
    folder: Path,
    scheduler: Any,
    pad: str = "<|endoftext|>",
    side: int = 16,
    channels: tuple[int, int] = (16, 32),
) -> Path:
    """Write a Stable Diffusion whose latents have this side, with images of twice that."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder.parent / f"{folder.name}_tokenizer", pad)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=side,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **SMALL | {"block_out_channels": channels},
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def if_unet(**changes: Any) -> UNet2DConditionModel:
    """A U-Net of IF: learned variance, projected text, attention with added keys and values."""
    return UNet2DConditionModel(
        out_channels=6,
        cross_attention_dim=16,
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        **SMALL | changes,
    )


def write_if(folder: Path, side: int = 16, **changes: Any) -> tuple[Path, Path]:
    """Write IF-I and IF-II, of twice its side; the second has no T5, as after a thrifty download.

    ``changes`` are those of both U-Nets.
    """
    torch.manual_seed(1)
    scheduler = DDPMScheduler(**IF)
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
    text = T5EncoderModel(T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes))
    tokenizer = AutoTokenizer.from_pretrained(T5_MINI)
    none: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    base: Any = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        unet=if_unet(in_channels=3, sample_size=side, **changes),
        scheduler=scheduler,
        requires_safety_checker=False,
        **none,
    )
    base.save_pretrained(folder / "IF-I")
    second: Any = IFSuperResolutionPipeline(
        tokenizer=None,
        text_encoder=None,
        unet=if_unet(in_channels=6, sample_size=2 * side, class_embed_type="timestep", **changes),
        scheduler=scheduler,
        image_noising_scheduler=DDPMScheduler(**IF),
        requires_safety_checker=False,
        **none,
    )
    second.save_pretrained(folder / "IF-II")
    return folder / "IF-I", folder / "IF-II"
