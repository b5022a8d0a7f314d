"""Where a T5 is found, and how its tokenizer and its weights are loaded."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minimagen.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch


class Tokenizer(NamedTuple):
    """From captions to token ids, each list ending with end-of-sequence."""

    encode: Callable[[Sequence[str]], list[list[int]]]
    unknown: int | None
    """The token of everything that is not in the vocabulary; None where there is no such token."""
    blank: int | None
    """The token of a word boundary alone."""


T5_MINI = Path(__file__).parent / "t5_mini"
"""The bundled encoder, which needs no network."""

HUB_ENCODERS = {
    "t5_small": ("google-t5/t5-small", 512),
    "t5_base": ("google-t5/t5-base", 768),
    "t5_large": ("google-t5/t5-large", 1024),
    "t5_3b": ("google-t5/t5-3b", 1024),
    "t5_11b": ("google-t5/t5-11b", 1024),
    "small1.1": ("google/t5-v1_1-small", 512),
    "base1.1": ("google/t5-v1_1-base", 768),
    "large1.1": ("google/t5-v1_1-large", 1024),
    "xl1.1": ("google/t5-v1_1-xl", 2048),
    "xxl1.1": ("google/t5-v1_1-xxl", 4096),
}
"""Short name -> (hub id, embedding width), so that a dry run needs neither network nor weights."""

SIZES = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size")
BUCKETS, DISTANCE = "relative_attention_num_buckets", "relative_attention_max_distance"
LARGEST = 1 << 20  # of any of these
BLANK = "\u2581"  # how sentencepiece writes the space before a word
T5_VOCAB_SIZE = 32_128  # where config.json gives none
KNOWN_NAMES = ("t5_mini", *HUB_ENCODERS)
BFLOAT16_ABOVE = 1_000_000_000
"""Parameters above which an encoder on a GPU is kept in bfloat16 (float16 overflows in T5)."""


def find_source(name: str) -> str:
    """Return the local folder or the hub id that ``name`` stands for, without any network."""
    short = name.replace("-", "_")
    if short == "t5_mini":
        return str(T5_MINI)
    if short in HUB_ENCODERS:
        return HUB_ENCODERS[short][0]
    if Path(name).is_dir() or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return name
    raise UserError(
        f"unknown text encoder {name!r}{did_you_mean(name, KNOWN_NAMES)} "
        f"(valid: {', '.join(KNOWN_NAMES)}, a hub id (owner/name) or an existing folder)"
    )


@functools.cache
def is_on_hub(source: str) -> bool:
    """Ask the hub once, without the half minute of retries that a download spends offline."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        HfApi().model_info(source, timeout=10)
    except (HTTPError, HFValidationError, OSError):
        return False
    return True


def find_file(source: str, filename: str) -> Path | None:
    """Return one file of the encoder, from its folder, the cache or the hub; None without it."""
    if Path(source).is_dir():
        path = Path(source, filename)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    try:
        return Path(hf_hub_download(source, filename, local_files_only=not is_on_hub(source)))
    except EntryNotFoundError:
        return None
    except (HTTPError, HFValidationError, OSError) as error:
        raise cannot_fetch(source) from error


def cannot_fetch(source: str) -> UserError:
    """Return the error that says how to place an encoder here by hand."""
    return UserError(
        f"the text encoder {source!r} is not on this machine and cannot be fetched: put its "
        "config.json, *.safetensors and spiece.model into a folder and type --T5_NAME "
        "/path/to/folder (or fill the HF_HOME cache), or use the bundled --T5_NAME t5_mini"
    )


def read_config(source: str) -> dict[str, Any]:
    """Return the encoder's config.json; a UserError if it is missing, not a T5's or impossible."""
    path = find_file(source, "config.json")
    if path is None and not Path(source).is_dir():
        raise cannot_fetch(source)
    if path is None:
        raise UserError(f"{source!r} holds no config.json, so it is no text encoder; try t5_mini")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "t5" or "d_model" not in config:
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
    return config


def load_tokenizer(source: str, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of the encoder at ``source``.

    ``vocab_size`` is the encoder's; a tokenizer with more tokens belongs to another.

    The libraries are asked directly, because transformers' T5Tokenizer ignores byte fallback and,
    where it misses a file, quietly makes do with a vocabulary of four tokens.
    """
    path = find_file(source, "spiece.model")
    if path is not None:
        from sentencepiece import SentencePieceProcessor

        try:
            processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise _damaged_tokenizer(path, error) from error
        _check_tokens(path, processor.vocab_size(), vocab_size)
        return Tokenizer(
            lambda captions: processor.encode(list(captions), add_eos=True),
            processor.unk_id(),
            processor.piece_to_id(BLANK),
        )
    path = find_file(source, "tokenizer.json")
    if path is None:
        raise UserError(f"{source!r} holds neither spiece.model nor tokenizer.json")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data loaders warn otherwise
    from tokenizers import Tokenizer as FastTokenizer

    try:
        tokenizer = FastTokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # which is all that tokenizers raises
            raise
        raise _damaged_tokenizer(path, error) from error
    _check_tokens(path, tokenizer.get_vocab_size(), vocab_size)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Tokenizer(
        lambda captions: [each.ids for each in tokenizer.encode_batch(list(captions))],
        tokenizer.token_to_id("<unk>"),
        tokenizer.token_to_id(BLANK),
    )


def _damaged_tokenizer(path: Path, error: Exception) -> UserError:
    why = " ".join(str(error).split())
    return UserError(f"{path} is damaged or no tokenizer ({why}); copy it again from its source")


def _check_tokens(path: Path, tokens: int, vocab_size: int) -> None:
    if tokens > vocab_size:
        raise UserError(
            f"{path} has {tokens} tokens, the encoder beside it knows {vocab_size}: "
            "they belong to different models; copy both from one source"
        )


def load_model(source: str, device: torch.device | str) -> Any:
    """Return the encoder in eval mode without gradients; only safetensors are ever read."""
    import torch
    from safetensors import SafetensorError
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    if Path(source).is_dir() and not any(Path(source).glob("*.safetensors")):
        raise UserError(
            f"{source!r} holds no *.safetensors; other weight files can run code and are not read: "
            "convert them with transformers' save_pretrained"
        )
    load: Any = T5EncoderModel.from_pretrained
    local = Path(source).is_dir() or not is_on_hub(source)
    with _quiet_transformers():
        try:
            config = _checked_config(source, local)
            model, report = load(
                source,
                config=config,
                local_files_only=local,
                dtype=choose_dtype(config, torch.device(device)),
                use_safetensors=True,
                output_loading_info=True,
            )
        except OSError as error:
            raise cannot_fetch(source) from error
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise UserError(f"the weights in {source!r} are damaged or not its own") from error
    if report["missing_keys"]:
        raise UserError(f"the weights in {source!r} lack {sorted(report['missing_keys'])[0]!r}")
    return model.eval().requires_grad_(False).to(device)


def _checked_config(source: str, local: bool) -> Any:
    """Return transformers' configuration, after a network without weights was built from it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.t5.configuration_t5 import T5Config

    try:
        config = T5Config.from_pretrained(source, local_files_only=local)
        _count_parameters(config)
    except (
        StrictDataclassError, TypeError, ValueError, LookupError, AttributeError, RuntimeError
    ) as error:  # fmt: skip
        why = " ".join(str(error).split())
        raise UserError(f"config.json of {source!r} describes no T5: {why}") from error
    return config


def choose_dtype(config: Any, device: torch.device) -> torch.dtype:
    """float32, except that the largest encoders on a GPU keep the bfloat16 they were trained in."""
    import torch

    large = device.type == "cuda" and _count_parameters(config) > BFLOAT16_ABOVE
    return torch.bfloat16 if large else torch.float32


def _count_parameters(config: Any) -> int:
    import torch
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    with torch.device("meta"):
        return int(T5EncoderModel(config).num_parameters())


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' own messages and bars while it loads: ours say what matters."""
    from transformers.utils import logging as chatter

    verbosity = chatter.get_verbosity()
    bars = chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(verbosity)
        if bars:
            chatter.enable_progress_bar()
