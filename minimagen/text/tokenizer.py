"""How an encoder's tokenizer is loaded.

The libraries are asked directly, because transformers' T5Tokenizer ignores byte fallback and, where
it misses a file, quietly makes do with a vocabulary of four tokens.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minimagen.errors import UserError
from minimagen.text.files import find_file, locate, read_config

BLANK = "\u2581"  # how sentencepiece writes the space before a word
UNKNOWN = ("<unk>", "[UNK]")
T5_FAMILY = ("t5", "mt5", "umt5")
T5_VOCAB_SIZE = 32_128  # where config.json gives none
VOCABULARIES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model", "spiece.model")
"""One of these files is what transformers makes a tokenizer of where there is no tokenizer.json."""


class Tokenizer(NamedTuple):
    """From captions to token ids, uncut; the last one of each list ends the sequence."""

    encode: Callable[[list[str]], list[list[int]]]
    unknown: int | None
    """The token of everything that is not in the vocabulary; None where there is no such token."""
    silent: frozenset[int]
    """Tokens that say nothing of a caption: begin, end, a word boundary alone."""
    pieces: Callable[[str], list[str]]
    """From a caption to its tokens as text, uncut."""


def load_tokenizer(source: str) -> Tokenizer:
    """Return the tokenizer of the encoder at ``source``.

    Raises:
        UserError: there is none, it is damaged, or it has more tokens than the encoder knows.
    """
    config = read_config(source)
    family = config["model_type"] in T5_FAMILY
    text_config = config.get("text_config")
    sizes = text_config if isinstance(text_config, dict) else config
    vocab_size = sizes.get("vocab_size", T5_VOCAB_SIZE if family else None)
    if family and (path := find_file(source, "spiece.model")) is not None:
        return _sentencepiece(path, vocab_size)
    path = find_file(source, "tokenizer.json")
    tokenizer = _vocabulary(source) if path is None else _fast(path)
    _check_tokens(path or Path(source), tokenizer.get_vocab_size(), vocab_size)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    unknown = next((i for i in map(tokenizer.token_to_id, UNKNOWN) if i is not None), None)
    added = tokenizer.get_added_tokens_decoder().items()
    silent = {token for token, what in added if what.special} | {tokenizer.token_to_id(BLANK)}
    return Tokenizer(
        partial(_ids, tokenizer),
        unknown,
        frozenset(silent - {unknown, None}),
        partial(_pieces, tokenizer),
    )


def _ids(tokenizer: Any, captions: list[str]) -> list[list[int]]:
    return [each.ids for each in tokenizer.encode_batch(captions)]


def _pieces(tokenizer: Any, caption: str) -> list[str]:
    pieces: list[str] = tokenizer.encode(caption).tokens
    return pieces


def _sentencepiece(path: Path, vocab_size: int | None) -> Tokenizer:
    """Load the tokenizer that T5 was trained with."""
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise _damaged(path, error) from error
    _check_tokens(path, processor.vocab_size(), vocab_size)
    return Tokenizer(
        partial(processor.encode, add_eos=True),
        processor.unk_id(),
        frozenset({processor.eos_id(), processor.piece_to_id(BLANK)}),
        partial(_pieces_of_t5, processor),
    )


def _pieces_of_t5(processor: Any, caption: str) -> list[str]:
    pieces: list[str] = processor.id_to_piece(processor.encode(caption, add_eos=True))
    return pieces


def _fast(path: Path) -> Any:
    """Load a tokenizer.json."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data loaders warn otherwise
    from tokenizers import Tokenizer as FastTokenizer

    try:
        return FastTokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # which is all that tokenizers raises
            raise
        raise _damaged(path, error) from error


def _vocabulary(source: str) -> Any:
    """Let transformers make a tokenizer of an older encoder's vocabulary."""
    if not any(find_file(source, name) for name in VOCABULARIES):
        raise UserError(
            f"{source!r} holds neither spiece.model nor tokenizer.json; copy the tokenizer's files "
            "from the encoder's source"
        )
    if (tokenizer := getattr(auto_tokenizer(source), "backend_tokenizer", None)) is None:
        raise UserError(f"{source!r} has a tokenizer in Python; convert it to tokenizer.json")
    return tokenizer


def auto_tokenizer(source: str) -> Any:
    """Let transformers load a tokenizer of a folder or the hub; a UserError if it is damaged."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data loaders warn otherwise
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    try:
        return load(**locate(source))
    except (OSError, ValueError, LookupError, AttributeError, ImportError, TypeError) as error:
        raise _damaged(Path(source), error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    why = " ".join(str(error).split())[:200]
    return UserError(f"{path} is damaged or no tokenizer ({why}); copy it again from its source")


def _check_tokens(path: Path, tokens: int, vocab_size: int | None) -> None:
    if vocab_size is not None and tokens > vocab_size:
        raise UserError(
            f"{path} has {tokens} tokens, the encoder beside it knows {vocab_size}: "
            "they belong to different models; copy both from one source"
        )
