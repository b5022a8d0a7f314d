"""Where autoencoders are, and those that diffusers keeps: a folder, or ``vae/`` in it."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minimagen.autoencoders.kl import KLAutoencoder
from minimagen.autoencoders.tiny import TinyAutoencoder
from minimagen.autoencoders.training import TrainedAutoencoder
from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.errors import UserError
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import read_json, replacing, write_json
from minimagen.storage.hub import KEPT, is_on_hub, located

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
VAE_FILES = (CONFIG, WEIGHTS, f"vae/{CONFIG}", f"vae/{WEIGHTS}")
"""All that is fetched of an autoencoder of diffusers'."""
KL, TINY = "AutoencoderKL", "AutoencoderTiny"
SHARED = (
    "latent_channels", "scaling_factor", "shift_factor", "latents_mean", "latents_std",
)  # fmt: skip
KL_KEYS = (
    *SHARED, "block_out_channels", "layers_per_block", "norm_num_groups",
    "mid_block_add_attention", "use_quant_conv", "use_post_quant_conv",
)  # fmt: skip
DEFAULTS = {  # diffusers', where its config.json leaves something out
    "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215,
    "mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True,
    "block_out_channels": [64],
}  # fmt: skip
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of the attention in files from before 2023."""


def find_folder(name: str) -> Path:
    """Return the folder of an autoencoder: a training directory, or one of diffusers'.

    Args:
        name: That folder, one that has it as ``vae/``, or a repository of the hub (``owner/name``,
            ``owner/name@revision``), which is fetched.

    Raises:
        UserError: There is no such folder, or it cannot be fetched.
    """
    if Path(name).is_dir() or is_on_hub(name):
        folder = located(name, (*KEPT, *VAE_FILES))
        if TrainingDirectory(folder).has_parameters:
            return folder
        for each in (folder, folder / "vae"):
            if (each / CONFIG).is_file():
                return each
    raise UserError(
        f"no autoencoder {name!r}: give a training directory that has one, a folder of diffusers' "
        "(config.json and safetensors, or vae/ with them) or a hub id (owner/name)"
    )


def load_folder(folder: Path) -> KLAutoencoder | TinyAutoencoder:
    """Return a frozen autoencoder of diffusers'.

    Raises:
        UserError: it is of another kind, or damaged.
    """
    values = read_json(folder / CONFIG)
    kind = values.get("_class_name") if isinstance(values, dict) else None
    if kind not in (KL, TINY):
        raise UserError(f"{folder / CONFIG}: {kind!r} is neither {KL} nor {TINY}")
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" ({pickles[0]} may run code and is not read: convert it)" if pickles else ""
        raise UserError(f"{folder} has no {WEIGHTS}{hint}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} is damaged ({error}); copy it again") from None
    config = _kl_config(values, folder) if kind == KL else _tiny_config(values, folder)
    autoencoder = KLAutoencoder(0, config) if kind == KL else TinyAutoencoder(0, config)
    renamed = {_renamed(name): _squeezed(name, x.float()) for name, x in tensors.items()}
    try:
        autoencoder.network.load_state_dict(renamed)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip()
        raise UserError(f"{folder / WEIGHTS} is not of its {CONFIG}: {first[:200]}") from None
    return autoencoder.eval().requires_grad_(False)


def on_meta_of(name: str) -> KLAutoencoder:
    """Return the autoencoder of Stable Diffusion in a folder or on the hub, without weights."""
    folder = find_folder(name)
    with torch.device("meta"):
        return KLAutoencoder(0, _kl_config(read_json(folder / CONFIG), folder))


def _kl_config(values: dict[str, Any], folder: Path) -> AutoencoderConfig:
    known = {k: values[k] for k in KL_KEYS if values.get(k) is not None}
    side = 2 ** (len(known.get("block_out_channels", [1])) - 1) * 8
    where = str(folder / CONFIG)
    return AutoencoderConfig.read(DEFAULTS | known | {"kind": "kl", "image_size": side}, where)


def _tiny_config(values: dict[str, Any], folder: Path) -> AutoencoderConfig:
    where = str(folder / CONFIG)
    dims = values.get("encoder_block_out_channels", [64, 64, 64, 64])
    blocks = values.get("num_encoder_blocks", [1, 3, 3, 3])
    mirrored = dims[::-1] == values.get("decoder_block_out_channels", dims[::-1])
    regular = blocks[0] == 1 and len(set(blocks[1:])) <= 1
    regular = regular and values.get("num_decoder_blocks", blocks[::-1]) == blocks[::-1]
    if not (
        mirrored and regular and len(set(dims)) == 1 and values.get("act_fn", "relu") == "relu"
    ):
        raise UserError(f"{where} is no TAESD: its blocks are of another shape")
    known = {k: values[k] for k in SHARED if values.get(k) is not None}
    shape = {"block_out_channels": dims, "layers_per_block": (blocks[1:] or [1])[0]}
    size = {"image_size": 2 ** (len(dims) - 1) * 8, "norm_num_groups": 1, "kind": "tiny"}
    return AutoencoderConfig.read({"scaling_factor": 1.0} | known | shape | size, where)


def _renamed(name: str) -> str:
    if ".attentions." not in name:
        return name
    return re.sub(r"\.(query|key|value|proj_attn)\.", lambda m: f".{OLD_NAMES[m[1]]}.", name)


def _squeezed(name: str, tensor: Tensor) -> Tensor:
    """Return old attention weights, which were 1 x 1 convolutions, as matrices."""
    attention = ".attentions." in name and name.endswith("weight") and tensor.ndim == 4
    return tensor[:, :, 0, 0] if attention else tensor


def save_folder(autoencoder: TrainedAutoencoder, folder: Path) -> None:
    """Write an autoencoder as diffusers reads it.

    Raises:
        UserError: it cannot be written.
    """
    config = autoencoder.config
    dims, blocks = list(config.block_out_channels), config.layers_per_block
    values: dict[str, Any] = {"_class_name": KL if config.kind == "kl" else TINY}
    known = config.model_dump(mode="json")
    chosen = KL_KEYS if config.kind == "kl" else SHARED
    values |= {k: v for k in chosen if (v := known[k]) is not None}
    if config.kind == "kl":
        values |= {
            "in_channels": 3, "out_channels": 3, "act_fn": "silu",
            "down_block_types": ["DownEncoderBlock2D"] * len(dims),
            "up_block_types": ["UpDecoderBlock2D"] * len(dims),
            "sample_size": max(config.image_size),
        }  # fmt: skip
    else:
        levels = [1] + [blocks] * (len(dims) - 1)
        values |= {
            "in_channels": 3, "out_channels": 3, "act_fn": "relu",
            "encoder_block_out_channels": dims, "decoder_block_out_channels": dims[::-1],
            "num_encoder_blocks": levels, "num_decoder_blocks": levels[::-1],
        }  # fmt: skip
        values.pop("latents_mean", None)
        values.pop("latents_std", None)
    tensors = {
        name: x.detach().contiguous().cpu() for name, x in autoencoder.network.state_dict().items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, values)
        with replacing(folder / WEIGHTS) as part:
            save_file(tensors, part, {"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {folder}: {error}") from None
