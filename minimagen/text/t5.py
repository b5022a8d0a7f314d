"""The frozen T5 encoder: captions in, one embedding per token out.

Imagen (Saharia et al. 2022, section 2.1) conditions on a large language model trained on text only
and never touches its weights. Here transformers runs the network and sentencepiece, the library T5
was trained with, cuts the captions into tokens.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from minimagen.errors import UserError
from minimagen.text.encoding import TokenReport
from minimagen.text.fingerprint import fingerprint_of
from minimagen.text.t5_files import (
    HUB_ENCODERS,
    T5_VOCAB_SIZE,
    Tokenizer,
    cannot_fetch,
    choose_dtype,
    find_file,
    find_source,
    load_model,
    load_tokenizer,
    read_config,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK_SIZE, LENGTH_STEP = 32, 16
"""The shape of what runs together: captions, and the unit that their length is rounded up to."""
WIDE = 512
logger = logging.getLogger(__name__)


class T5Encoder:
    """A frozen T5 encoder that loads itself at the first caption.

    Args:
        name: ``t5_mini``, a short name (``t5_small`` ... ``xxl1.1``), a hub id or a local folder
            that holds ``config.json``, ``*.safetensors`` and the tokenizer's files.
        max_num_words: longest caption in tokens, the end-of-sequence token included.
        device: where the network runs; the embeddings always come back on the CPU.

    Raises:
        UserError: no encoder has this ``name``, or ``max_num_words`` is below 1.
    """

    def __init__(
        self, name: str = "t5_mini", max_num_words: int = 64, device: torch.device | str = "cpu"
    ) -> None:
        if max_num_words < 1:
            raise UserError(f"MAX_NUM_WORDS is {max_num_words}; give at least 1, for example 64")
        self.name = name
        self.max_num_words = max_num_words
        self.device = device
        self._source = find_source(name)
        self._model: Any = None
        self._tokenizer: Tokenizer | None = None
        self._cut_before: set[int] = set()
        self._unknown_before: set[int] = set()

    @property
    def embed_dim(self) -> int:
        """The width of an embedding, known without loading weights.

        Raises:
            UserError: the encoder is not a T5, or is neither here nor fetchable.
        """
        return dict(HUB_ENCODERS.values()).get(self._source) or read_config(self._source)["d_model"]

    @property
    def fingerprint(self) -> str:
        """What changes with the weights, the tokenizer or the longest caption; loads nothing.

        Raises:
            UserError: the encoder is neither here nor fetchable.
        """
        config = find_file(self._source, "config.json")
        if config is None:
            raise cannot_fetch(self._source)
        return fingerprint_of(config.parent, self.max_num_words)

    def load(self) -> None:
        """Load tokenizer and weights now, so that a missing encoder ends a run at once.

        Raises:
            UserError: the encoder is not a T5, or is neither here nor fetchable.
        """
        if self._model is None:
            self._loaded_tokenizer()
            self._model = load_model(self._source, self.device)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to ``device``, now or when it is loaded; returns itself."""
        import torch

        self.device = device
        if self._model is not None:
            dtype = choose_dtype(self._model.config, torch.device(device))
            self._model.to(device=device, dtype=dtype)
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` float32 CPU tensor per caption, ``1 <= n_i <= max_num_words``.

        A matrix product may round differently at another shape. So a caption always runs in a
        block whose shape its own length decides, and is the same to the bit in any batch.

        Raises:
            UserError: the encoder is not a T5, or is neither here nor fetchable.
        """
        self.load()
        uncut = self.tokenize(captions)
        self._note(captions, uncut)
        tokens = [self._cut(ids) for ids in uncut]
        of_one_length = defaultdict(list)
        for index, ids in enumerate(tokens):
            of_one_length[_round_up(len(ids))].append(index)
        embeds: dict[int, Tensor] = {}
        for indices in of_one_length.values():
            for start in range(0, len(indices), self._block_size()):
                block = indices[start : start + self._block_size()]
                embeds.update(zip(block, self._embed([tokens[i] for i in block]), strict=True))
        return [embeds[index] for index in range(len(tokens))]

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """Return each caption's token ids, uncut; the last one ends the sequence."""
        return self._loaded_tokenizer().encode(list(captions))

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return how each caption is cut into tokens; needs the tokenizer only."""
        return [TokenReport(len(ids), self._is_unknown(ids)) for ids in self.tokenize(captions)]

    def notes(self) -> list[str]:
        """Return how many different captions were cut, and how many are unknown, so far."""
        cut = f"captions were cut to {self.max_num_words} tokens"
        unknown = f"captions are unknown to the text encoder {self.name} and all give the same "
        unknown += "images; t5_mini knows every letter"
        counted = ((self._cut_before, cut), (self._unknown_before, unknown))
        return [f"{len(found)} different {what}" for found, what in counted if found]

    def _loaded_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            vocab_size = read_config(self._source).get("vocab_size", T5_VOCAB_SIZE)
            self._tokenizer = load_tokenizer(self._source, vocab_size)
        return self._tokenizer

    def _is_unknown(self, ids: list[int]) -> bool:
        """Whether a caption's tokens, without the end, are unknown ones and blanks only."""
        tokenizer = self._loaded_tokenizer()
        return set(ids[:-1]) - {tokenizer.blank} == {tokenizer.unknown}

    def _note(self, captions: Sequence[str], tokens: list[list[int]]) -> None:
        """Count captions that will be cut or are unknown; log only the first of each kind."""
        for caption, ids in zip(captions, tokens, strict=True):
            if len(ids) > self.max_num_words:
                if not self._cut_before:
                    logger.warning(
                        "a caption of %d tokens is cut to max_num_words = %d; others are counted",
                        len(ids),
                        self.max_num_words,
                    )
                self._cut_before.add(hash(caption))
            if self._is_unknown(ids):
                if not self._unknown_before:
                    logger.warning(
                        "the text encoder %s knows no letter of the caption %r: all such captions "
                        "are encoded alike; t5_mini knows every letter",
                        self.name,
                        caption,
                    )
                self._unknown_before.add(hash(caption))

    def _cut(self, ids: list[int]) -> list[int]:
        """Return at most ``max_num_words`` tokens, the last of them the end of the sequence."""
        limit = self.max_num_words
        return ids if len(ids) <= limit else ids[: limit - 1] + ids[-1:]

    def _block_size(self) -> int:
        """Captions per run: one for wide encoders on a CPU, which are no faster with more."""
        import torch

        wide = self._model.config.d_model >= WIDE
        return 1 if wide and torch.device(self.device).type == "cpu" else BLOCK_SIZE

    def _embed(self, tokens: list[list[int]]) -> list[Tensor]:
        """Run one block, filled up to its full shape, and cut what was filled in off again."""
        import torch

        shape = (self._block_size(), _round_up(len(tokens[0])))
        ids, mask = torch.zeros(2, *shape, dtype=torch.long)
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
