"""The files of a text encoder: where they are, and what its config.json says."""

import functools
import json
from pathlib import Path
from typing import Any

from minimagen.errors import UserError
from minimagen.storage.hub import name_and_revision

SIZES = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size")  # of a T5
OTHER_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
BUCKETS, DISTANCE = "relative_attention_num_buckets", "relative_attention_max_distance"
LARGEST = 1 << 20  # of any of these


@functools.cache
def hub_has(source: str) -> bool:
    """Ask the hub once, without the half minute of retries that a download spends offline.

    Raises:
        UserError: The repository is there, without the branch, tag or commit that is asked for.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError, RevisionNotFoundError

    name, revision = name_and_revision(source)
    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except RevisionNotFoundError:
        raise UserError(f"the text encoder {name!r} of the hub has no {revision!r}") from None
    except (HTTPError, HFValidationError, OSError):
        return False
    return True


def locate(source: str) -> dict[str, Any]:
    """Return what transformers' ``from_pretrained`` takes to find an encoder.

    No code of it is run. Nothing is fetched where it is a folder, or is not on the hub.
    """
    name, revision = name_and_revision(source)
    return {
        "pretrained_model_name_or_path": name,
        "revision": revision or "main",
        "local_files_only": Path(source).is_dir() or not hub_has(source),
        "trust_remote_code": False,
    }


def find_file(source: str, filename: str) -> Path | None:
    """Return one file of the encoder, from its folder, the cache or the hub; None without it."""
    if Path(source).is_dir():
        path = Path(source, filename)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    name, revision = name_and_revision(source)
    local = not hub_has(source)
    try:
        return Path(hf_hub_download(name, filename, revision=revision, local_files_only=local))
    except EntryNotFoundError:
        return None
    except (HTTPError, HFValidationError, OSError) as error:
        raise cannot_fetch(source) from error


def cannot_fetch(source: str) -> UserError:
    """Return the error that says how to place an encoder here by hand."""
    return UserError(
        f"the text encoder {source!r} is not on this machine and cannot be fetched: put its "
        "config.json, *.safetensors and tokenizer (spiece.model or tokenizer.json) into a folder "
        "and give `text_encoder` /path/to/folder (or fill the HF_HOME cache), or use the bundled "
        "`text_encoder` t5_mini"
    )


def read_config(source: str) -> dict[str, Any]:
    """Return the encoder's config.json; a UserError if it is missing, or an impossible T5's."""
    path = find_file(source, "config.json")
    if path is None and not Path(source).is_dir():
        raise cannot_fetch(source)
    if path is None:
        raise UserError(f"{source!r} holds no config.json, so it is no text encoder; try t5_mini")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError(f"{path} names no model_type; give a text encoder, for example t5_mini")
    if config["model_type"] == "t5":
        _check_t5(config, path)
    for key in OTHER_SIZES:
        if type(size := config.get(key, 1)) is int and size > LARGEST:
            raise UserError(f"{path}: {key} is {size}; no encoder has more than {LARGEST}")
    return config


def _check_t5(config: dict[str, Any], path: Path) -> None:
    """Refuse sizes that transformers would take hours, or all memory, to build a T5 of."""
    if "d_model" not in config:
        raise UserError(f"{path} does not describe a T5; give a T5 encoder, for example t5_mini")
    for key in (*SIZES, BUCKETS, DISTANCE):
        size = config.get(key, 1)  # what is not there has transformers' default
        least = 0 if key == "num_layers" else 1  # without layers T5 is a bag of words
        if type(size) is not int or not least <= size <= LARGEST:
            wanted = f"must be a whole number of {least} to {LARGEST}"
            raise UserError(f"{path}: {key} is {size!r}, {wanted}")
    buckets, distance = config.get(BUCKETS, 32), config.get(DISTANCE, 128)
    if buckets < 4 or distance <= buckets // 4:
        raise UserError(
            f"{path}: {BUCKETS} is {buckets} and {DISTANCE} {distance}; they must be at least 4, "
            "and more than a quarter of that"
        )
