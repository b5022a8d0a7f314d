"""Repositories of the Hugging Face hub: weights and configuration, no pickles and no code."""

import functools
import re
from pathlib import Path

from minimagen.errors import UserError

KEPT = ("parameters/*.json", "state_dicts/*.safetensors", "README.md")
"""All that is published and fetched of a cascade of ours."""
OF_DIFFUSERS = (
    "model_index.json", "*/*.json", "tokenizer/*", "text_encoder/model.safetensors",
    "text_encoder/model-*-of-*[0-9].safetensors", "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model-*-of-*[0-9].safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)  # fmt: skip
"""All that is fetched of a model of diffusers'."""
FETCHED = (*KEPT, *OF_DIFFUSERS)
LOG_IN = "log in with `hf auth login` or HF_TOKEN"
LONGEST = 200  # characters of what the hub says
REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<revision>[^\s,@]+))?")


def is_on_hub(name: str | Path) -> bool:
    """Return whether ``name`` can only be a repository: owner/name, and no folder ``owner``.

    It may name a branch, tag or commit: owner/name@revision.
    """
    text = str(name)
    owner = text.partition("/")[0]
    return bool(REPOSITORY.fullmatch(text)) and not Path(owner).exists()


def name_and_revision(name: str | Path) -> tuple[str, str | None]:
    """Return the two parts of owner/name@revision; what is a folder, or names none, has the first.

    The second one is None then: the newest commit of the branch main is meant.
    """
    found = None if Path(name).is_dir() else REPOSITORY.fullmatch(str(name))
    return (found["name"], found["revision"]) if found else (str(name), None)


def located(name: str | Path, patterns: tuple[str, ...] = FETCHED) -> Path:
    """Return the folder called ``name``, or the local copy of a repository, see ``is_on_hub``.

    Args:
        name: A folder, or a repository.
        patterns: What is fetched of it.

    Raises:
        UserError: It is neither, or cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if is_on_hub(name):
        return fetched(*name_and_revision(name), patterns)
    raise UserError(f"no folder {name}; give one, or a repository of the hub (owner/name)")


@functools.cache  # a cascade asks for its network, its text encoder, its autoencoder ...
def fetched(name: str, revision: str | None = None, patterns: tuple[str, ...] = FETCHED) -> Path:
    """Return the local copy of the files of a repository that have one of the ``patterns``.

    Raises:
        UserError: There is none, here or on the hub.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=list(patterns))
    except (HTTPError, OSError, ValueError) as error:
        why = reason(error, revision)
        raise UserError(
            f"{name} is no folder here and cannot be fetched from the hub: {why}"
        ) from None
    return Path(found)


def reason(error: Exception, revision: str | None = None) -> str:
    """Return in one line why the hub did not do what it was asked for."""
    from huggingface_hub import errors

    said = " ".join(str(error).split())[:LONGEST] or type(error).__name__
    match error:
        case errors.RevisionNotFoundError():
            return f"it has no revision {revision!r}"
        case errors.RepositoryNotFoundError():
            return f"there is no such repository, or not for this login: {LOG_IN}"
        case errors.LocalEntryNotFoundError():
            return "the hub is not reached, and it was not fetched before"
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set"
        case errors.HfHubHTTPError() | errors.LocalTokenNotFoundError():
            return f"{said}; {LOG_IN}"
        case errors.HTTPError():
            return f"the hub is not reached ({said})"
    return said
