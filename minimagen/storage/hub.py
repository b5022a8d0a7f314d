"""Repositories of the Hugging Face hub: weights and configuration, no pickles and no code."""

import functools
import re
from pathlib import Path

from minimagen.errors import UserError, first_line

KEPT = ("parameters/*.json", "state_dicts/*.safetensors", "README.md")
"""All that is published and fetched of a cascade of ours."""
OF_DIFFUSERS = (
    "model_index.json", "*/*.json", "tokenizer/*", "text_encoder/model.safetensors",
    "text_encoder/model-*-of-*[0-9].safetensors", "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model-*-of-*[0-9].safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)  # fmt: skip
"""All that is fetched of a model of diffusers'."""


def is_on_hub(name: str | Path) -> bool:
    """Return whether ``name`` can only be a repository: owner/name, and no folder ``owner``."""
    text = str(name)
    owner = text.partition("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", text)) and not Path(owner).exists()


def located(name: str | Path) -> Path:
    """Return the folder called ``name``, or the local copy of a repository.

    Raises:
        UserError: It is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if is_on_hub(name):
        return fetched(str(name))
    raise UserError(f"no folder {name}; give one, or a repository of the hub (owner/name)")


@functools.cache  # a cascade asks for its network, its text encoder, its autoencoder ...
def fetched(name: str, revision: str | None = None) -> Path:
    """Return the local copy of a repository's weights and configuration.

    Raises:
        UserError: There is none, here or on the hub.
    """
    from huggingface_hub import snapshot_download

    patterns = [*KEPT, *OF_DIFFUSERS]
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors and ValueErrors
        raise UserError(
            f"{name} is no folder here and cannot be fetched from the hub: {first_line(error)}"
        ) from None
    return Path(found)
