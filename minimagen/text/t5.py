"""The frozen T5 encoder: captions in, one embedding per token out.

Imagen (Saharia et al. 2022, section 2.1) conditions on a large language model trained on text only
and never touches its weights. Here transformers runs the network and sentencepiece, the library T5
was trained with, cuts the captions into tokens.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from minimagen.errors import UserError, did_you_mean
from minimagen.text.encoding import TextEncoding, pad_and_stack

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tokenize = Callable[[Sequence[str]], list[list[int]]]

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

KNOWN_NAMES = ("t5_mini", *HUB_ENCODERS)
BLOCK_SIZE, LENGTH_STEP = 32, 16
"""The shape of what runs together: captions, and the unit that their length is rounded up to."""
WIDE = 512
BFLOAT16_ABOVE = 1_000_000_000
"""Parameters above which an encoder on a GPU is kept in bfloat16 (float16 overflows in T5)."""

logger = logging.getLogger(__name__)


class T5Encoder:
    """A frozen T5 encoder that loads itself at the first caption.

    Args:
        name: ``t5_mini``, a short name (``t5_small`` ... ``xxl1.1``), a hub id or a local folder
            that holds ``config.json``, ``*.safetensors`` and the tokenizer's files.
        max_num_words: longest caption in tokens, the end-of-sequence token included.
        device: where the network runs; the embeddings always come back on the CPU.

    Raises:
        UserError: nobody could mean this ``name``, or ``max_num_words`` is below 1.
    """

    def __init__(
        self, name: str = "t5_mini", max_num_words: int = 64, device: torch.device | str = "cpu"
    ) -> None:
        if max_num_words < 1:
            raise UserError(f"MAX_NUM_WORDS is {max_num_words}; give at least 1, for example 64")
        self.name = name
        self.max_num_words = max_num_words
        self.device = device
        self._source = _find_source(name)
        self._model: Any = None
        self._tokenize: Tokenize | None = None
        self._cut_before: set[int] = set()

    @property
    def embed_dim(self) -> int:
        """The width of an embedding, known without loading weights.

        Raises:
            UserError: the encoder is not a T5, or is neither here nor fetchable.
        """
        known = {hub_id: width for hub_id, width in HUB_ENCODERS.values()}
        return known.get(self._source) or int(_read_config(self._source)["d_model"])

    @property
    def cut_captions(self) -> int:
        """How many different captions were longer than ``max_num_words``, and were cut, so far."""
        return len(self._cut_before)

    def load(self) -> None:
        """Load tokenizer and weights now, so that a missing encoder is told before work is lost.

        Raises:
            UserError: the encoder is not a T5, or is neither here nor fetchable.
        """
        if self._model is None:
            _read_config(self._source)
            self._tokenize = _load_tokenizer(self._source)
            self._model = _load_model(self._source, self.device)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to ``device``, now or when it is loaded; returns itself."""
        import torch

        self.device = device
        if self._model is not None:
            dtype = _choose_dtype(self._model.config, torch.device(device))
            self._model.to(device=device, dtype=dtype)
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Encode captions; what a caption gets does not depend on the others.

        A matrix product may round differently at another shape. So a caption always runs in a
        block whose shape its own length decides, and is the same to the bit in any company.

        Returns:
            One ``[n_i, d]`` float32 CPU tensor per caption, ``1 <= n_i <= max_num_words``.

        Raises:
            UserError: the encoder is not a T5, or is neither here nor fetchable.
        """
        tokens = self._cut(self.tokenize(captions))
        of_one_length = defaultdict(list)
        for index, ids in enumerate(tokens):
            of_one_length[_round_up(len(ids))].append(index)
        embeds: dict[int, Tensor] = {}
        for indices in of_one_length.values():
            for start in range(0, len(indices), self._block_size()):
                block = indices[start : start + self._block_size()]
                embeds.update(zip(block, self._embed([tokens[i] for i in block]), strict=True))
        return [embeds[index] for index in range(len(tokens))]

    def __call__(self, captions: Sequence[str]) -> TextEncoding:
        """Encode captions into one padded batch on the CPU."""
        return pad_and_stack(self.encode(captions))

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """Return each caption's token ids, uncut; the last one ends the sequence."""
        self.load()
        assert self._tokenize is not None
        return self._tokenize(list(captions))

    def _cut(self, tokens: list[list[int]]) -> list[list[int]]:
        """Shorten what is too long, keep its last token (end of sequence), and count it.

        The first one is told at once, the others only by ``cut_captions``: in a run of thousands
        of batches a line each would bury everything else.
        """
        limit = self.max_num_words
        too_long = [ids for ids in tokens if len(ids) > limit]
        if too_long and not self._cut_before:
            logger.warning(
                "a caption of %d tokens was cut to %d (MAX_NUM_WORDS); further ones are counted",
                len(too_long[0]),
                limit,
            )
        self._cut_before.update(hash(tuple(ids)) for ids in too_long)
        return [ids if len(ids) <= limit else ids[: limit - 1] + ids[-1:] for ids in tokens]

    def _block_size(self) -> int:
        """Captions per run; on a CPU, where wide encoders gain nothing from company, one."""
        import torch

        wide = self._model.config.d_model >= WIDE
        return 1 if wide and torch.device(self.device).type == "cpu" else BLOCK_SIZE

    def _embed(self, tokens: list[list[int]]) -> list[Tensor]:
        """Run one block, filled up to its full shape, and cut what was filled in off again."""
        import torch

        shape = (self._block_size(), _round_up(len(tokens[0])))
        ids = torch.zeros(shape, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = torch.tensor(each)
            mask[row, : len(each)] = 1
        mask[len(tokens) :, 0] = 1  # attention over no token at all is undefined
        with torch.inference_mode():
            output = self._model(ids.to(self.device), attention_mask=mask.to(self.device))
        rows = output.last_hidden_state[: len(tokens)].float().cpu()
        # inference tensors cannot enter autograd, and a view would keep its whole block alive
        return [row[: len(each)].clone() for row, each in zip(rows, tokens, strict=True)]


def _round_up(length: int) -> int:
    """Return the length of the block in which a caption of ``length`` tokens runs."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _find_source(name: str) -> str:
    """Return the local folder or the hub id that ``name`` stands for, without any network."""
    short = name.replace("-", "_")
    if short == "t5_mini":
        return str(T5_MINI)
    if short in HUB_ENCODERS:
        return HUB_ENCODERS[short][0]
    if Path(name).is_dir() or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return name
    raise UserError(
        f"unknown text encoder {name!r}{did_you_mean(name, KNOWN_NAMES)}; "
        f"valid are {', '.join(KNOWN_NAMES)}, a hub id (owner/name) or an existing folder"
    )


@functools.cache
def _is_on_hub(source: str) -> bool:
    """Ask the hub once, without the half minute of retries that a download spends offline."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        HfApi().model_info(source, timeout=10)
    except (HTTPError, HFValidationError, OSError):
        return False
    return True


def _find_file(source: str, filename: str) -> Path | None:
    """Return one file of the encoder, from its folder, the cache or the hub; None without it."""
    if Path(source).is_dir():
        path = Path(source) / filename
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    try:
        return Path(hf_hub_download(source, filename, local_files_only=not _is_on_hub(source)))
    except EntryNotFoundError:
        return None
    except (HTTPError, HFValidationError, OSError) as error:
        raise _cannot_fetch(source) from error


def _cannot_fetch(source: str) -> UserError:
    return UserError(
        f"the text encoder {source!r} is not on this machine and cannot be fetched: put its "
        "config.json, *.safetensors and spiece.model into a folder and type --T5_NAME "
        "/path/to/folder (or fill the HF_HOME cache), or use the bundled --T5_NAME t5_mini"
    )


def _read_config(source: str) -> dict[str, Any]:
    """Return the encoder's config.json; a UserError if it is missing or not a T5's."""
    path = _find_file(source, "config.json")
    if path is None and not Path(source).is_dir():
        raise _cannot_fetch(source)
    if path is None:
        raise UserError(f"{source!r} holds no config.json, so it is no text encoder; try t5_mini")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "t5" or "d_model" not in config:
        raise UserError(f"{path} does not describe a T5; give a T5 encoder, for example t5_mini")
    return config


def _load_tokenizer(source: str) -> Tokenize:
    """Return the function from captions to token ids, each list ending with end-of-sequence.

    The libraries are asked directly, because transformers' T5Tokenizer ignores byte fallback and,
    where it misses a file, quietly makes do with a vocabulary of four tokens.
    """
    path = _find_file(source, "spiece.model")
    if path is not None:
        from sentencepiece import SentencePieceProcessor

        try:
            processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise _damaged_tokenizer(path, error) from error
        return lambda captions: processor.encode(list(captions), add_eos=True)
    path = _find_file(source, "tokenizer.json")
    if path is None:
        raise UserError(f"{source!r} holds neither spiece.model nor tokenizer.json")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data loaders warn otherwise
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # which is all that tokenizers raises
            raise
        raise _damaged_tokenizer(path, error) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda captions: [each.ids for each in tokenizer.encode_batch(list(captions))]


def _damaged_tokenizer(path: Path, error: Exception) -> UserError:
    why = " ".join(str(error).split())
    return UserError(f"{path} is damaged or no tokenizer ({why}); copy it again from its source")


def _load_model(source: str, device: torch.device | str) -> Any:
    """Return the encoder in eval mode without gradients; only safetensors are ever read."""
    import torch
    from safetensors import SafetensorError
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    if Path(source).is_dir() and not any(Path(source).glob("*.safetensors")):
        raise UserError(
            f"{source!r} holds no *.safetensors; other weight files can run code and are not read: "
            "convert them with transformers' save_pretrained"
        )
    load: Any = T5EncoderModel.from_pretrained
    local = Path(source).is_dir() or not _is_on_hub(source)
    with _quiet_transformers():
        try:
            config = T5Config.from_pretrained(source, local_files_only=local)
            model, report = load(
                source,
                config=config,
                local_files_only=local,
                dtype=_choose_dtype(config, torch.device(device)),
                use_safetensors=True,
                output_loading_info=True,
            )
        except OSError as error:
            raise _cannot_fetch(source) from error
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"the weights in {source!r} are damaged or not its own") from error
    if report["missing_keys"]:
        raise UserError(f"the weights in {source!r} lack {sorted(report['missing_keys'])[0]!r}")
    return model.eval().requires_grad_(False).to(device)


def _choose_dtype(config: Any, device: torch.device) -> torch.dtype:
    """float32, except that the largest encoders on a GPU keep the bfloat16 they were trained in."""
    import torch
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    if device.type != "cuda":
        return torch.float32
    with torch.device("meta"):
        large = T5EncoderModel(config).num_parameters() > BFLOAT16_ABOVE
    return torch.bfloat16 if large else torch.float32


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
