"""The network of a text encoder: which of transformers' it is, and how its weights are loaded."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimagen.errors import UserError
from minimagen.text.files import cannot_fetch, locate, read_config

if TYPE_CHECKING:
    import torch

BFLOAT16_ABOVE = 1_000_000_000
"""Parameters above which an encoder on a GPU is kept in bfloat16 (float16 overflows in T5)."""
POSITIONS = ("position_embeddings", "position_embedding")  # what transformers calls their table
UNUSED = "pooler"  # a layer behind the embeddings that checkpoints of masked language models lack


def embed_dim_of(source: str) -> int:
    """Return the width of an encoder's embeddings; loads no weights.

    Raises:
        UserError: it is no text encoder, or is neither here nor fetchable.
    """
    config = read_config(source)
    return config["d_model"] if config["model_type"] == "t5" else load_config(source).hidden_size


def load_config(source: str) -> Any:
    """Return transformers' configuration of an encoder, of CLIP and the like that of the text.

    Raises:
        UserError: it is no text encoder that transformers knows.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    read_config(source)
    where = locate(source)
    try:
        whole = AutoConfig.from_pretrained(**where)
        config = whole.get_text_config()
        _check_encoder(source, config)
        _count_parameters(config)
    except (
        StrictDataclassError, TypeError, ValueError, LookupError, AttributeError, RuntimeError
    ) as error:  # fmt: skip
        why = " ".join(str(error).split())[:300]
        raise UserError(f"config.json of {source!r} describes no text encoder: {why}") from error
    except OSError as error:
        raise cannot_fetch(source) from error
    return config


def _check_encoder(source: str, config: Any) -> None:
    """Refuse what does not give every token an embedding of the whole caption."""
    from transformers.models.auto import modeling_auto as known

    kind = type(config)
    if kind in known.MODEL_FOR_MASKED_LM_MAPPING and kind in known.MODEL_MAPPING:
        return
    if kind in known.MODEL_FOR_TEXT_ENCODING_MAPPING:
        if kind not in known.MODEL_FOR_CAUSAL_LM_MAPPING:
            return
    decodes = "is a decoder" if kind in known.MODEL_FOR_CAUSAL_LM_MAPPING else "encodes no text"
    raise UserError(
        f"{source!r} is no text encoder: {config.model_type} {decodes}; give a T5, a BERT, a "
        "CLIP or another encoder, for example t5_mini"
    )


def _network_class(config: Any) -> Any:
    from transformers.models.auto import modeling_auto as known

    kind, encoders = type(config), known.MODEL_FOR_TEXT_ENCODING_MAPPING
    return encoders[kind] if kind in encoders else known.MODEL_MAPPING[kind]


def load_network(source: str, device: torch.device | str) -> Any:
    """Return the encoder in eval mode without gradients; only safetensors are ever read.

    Raises:
        UserError: it is no text encoder, its weights are damaged or incomplete, or it is neither
            here nor fetchable.
    """
    import torch
    from safetensors import SafetensorError

    if Path(source).is_dir() and not any(Path(source).glob("*.safetensors")):
        raise UserError(
            f"{source!r} holds no *.safetensors; other weight files can run code and are not read: "
            "convert them with transformers' save_pretrained"
        )
    with _quiet_transformers():
        config = load_config(source)
        try:
            network, report = _network_class(config).from_pretrained(
                **locate(source),
                config=config,
                dtype=choose_dtype(config, torch.device(device)),
                use_safetensors=True,
                output_loading_info=True,
            )
        except OSError as error:
            raise cannot_fetch(source) from error
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise UserError(f"the weights in {source!r} are damaged or not its own") from error
    if missing := sorted(key for key in report["missing_keys"] if UNUSED not in key):
        raise UserError(f"the weights in {source!r} lack {missing[0]!r}")
    network = _encoder_of(network, config)
    if "attention_mask" not in inspect.signature(network.forward).parameters:
        raise UserError(
            f"{source!r}: a {config.model_type} has no mask, so that what it makes of a caption "
            "would depend on the batch; give another encoder, for example t5_mini"
        )
    return network.eval().requires_grad_(False).to(device)


def _encoder_of(network: Any, config: Any) -> Any:
    """Return the half of an encoder-decoder that reads."""
    from transformers.models.auto import modeling_auto as known

    halved = type(config) in known.MODEL_FOR_TEXT_ENCODING_MAPPING
    return network.get_encoder() if config.is_encoder_decoder and not halved else network


def positions_of(network: Any) -> int:
    """Return the most tokens that a network can place; a T5 has relative positions, without end."""
    import torch

    for name, module in network.named_modules():
        if name.endswith(POSITIONS) and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its kind count from behind the number of the padding token
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return sys.maxsize


def choose_dtype(config: Any, device: torch.device) -> torch.dtype:
    """float32, except that the largest encoders on a GPU keep the bfloat16 they were trained in."""
    import torch

    large = device.type == "cuda" and _count_parameters(config) > BFLOAT16_ABOVE
    return torch.bfloat16 if large else torch.float32


def count_parameters(source: str) -> int:
    """Return the number of an encoder's parameters; loads no weights."""
    return _count_parameters(load_config(source))


def _count_parameters(config: Any) -> int:
    """Return the number of parameters, after a network without weights was built."""
    import torch

    with torch.device("meta"):
        return int(_encoder_of(_network_class(config)(config), config).num_parameters())


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
