"""A frozen text encoder that transformers can load: captions in, one embedding per token out.

Imagen (Saharia et al. 2022, section 2.1) conditions on a large language model trained on text only
and never touches its weights: a T5. Any encoder will do that gives one embedding per token.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from minimagen.errors import UserError
from minimagen.text.encoding import TokenReport
from minimagen.text.files import cannot_fetch, find_file
from minimagen.text.fingerprint import fingerprint_of
from minimagen.text.names import HUB_ENCODERS, find_source
from minimagen.text.network import choose_dtype, embed_dim_of, load_network, positions_of
from minimagen.text.tokenizer import BLANK, Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK_SIZE, LENGTH_STEP = 32, 16
"""The shape of what runs together: captions, and the unit that their length is rounded up to."""
WIDE = 512
logger = logging.getLogger(__name__)


class PretrainedEncoder:
    """A frozen encoder that loads itself at the first caption: T5, BERT, CLIP's of text ...

    Args:
        name: ``t5_mini``, a short name (``minilm``, ``t5_small`` ... ``xxl1.1``), a hub id
            (``owner/name``, ``owner/name@revision``) or a local folder that holds ``config.json``,
            ``*.safetensors`` and the tokenizer's files.
        max_num_words: longest caption in tokens, those that begin and end it included; an encoder
            that has fewer positions cuts earlier.
        device: where the network runs; the embeddings always come back on the CPU.

    Raises:
        UserError: no encoder has this ``name``, or ``max_num_words`` is below 1.
    """

    def __init__(
        self, name: str = "t5_mini", max_num_words: int = 64, device: torch.device | str = "cpu"
    ) -> None:
        if max_num_words < 1:
            raise UserError(f"`max_num_words` is {max_num_words}; give at least 1, for example 64")
        self.name = name
        self.max_num_words = max_num_words
        self._most = max_num_words  # tokens; fewer where the network has fewer positions
        self._positions = max_num_words
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
            UserError: it is no text encoder, or is neither here nor fetchable.
        """
        return dict(HUB_ENCODERS.values()).get(self._source) or embed_dim_of(self._source)

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
            UserError: it is no text encoder, or is neither here nor fetchable.
        """
        if self._model is None:
            self._loaded_tokenizer()
            self._model = load_network(self._source, self.device)
            self._positions = positions_of(self._model)
            self._most = min(self.max_num_words, self._positions)

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
            UserError: it is no text encoder, or is neither here nor fetchable.
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

    def pieces(self, caption: str) -> list[str]:
        """Return the tokens of a caption as text, uncut; the space before a word is left out."""
        return [each.removeprefix(BLANK) for each in self._loaded_tokenizer().pieces(caption)]

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return how each caption is cut into tokens; needs the tokenizer only."""
        return [TokenReport(len(ids), self._is_unknown(ids)) for ids in self.tokenize(captions)]

    def notes(self) -> list[str]:
        """Return how many different captions were cut, and how many are unknown, so far."""
        cut = f"captions were cut to {self._most} tokens"
        unknown = f"captions are unknown to the text encoder {self.name} and all give the same "
        unknown += "images; t5_mini knows every letter"
        counted = ((self._cut_before, cut), (self._unknown_before, unknown))
        return [f"{len(found)} different {what}" for found, what in counted if found]

    def _loaded_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._source)
        return self._tokenizer

    def _is_unknown(self, ids: list[int]) -> bool:
        """Whether all tokens that say something of a caption are the unknown one."""
        tokenizer = self._loaded_tokenizer()
        return set(ids) - tokenizer.silent == {tokenizer.unknown}

    def _note(self, captions: Sequence[str], tokens: list[list[int]]) -> None:
        """Count captions that will be cut or are unknown; log only the first of each kind."""
        for caption, ids in zip(captions, tokens, strict=True):
            if len(ids) > self._most:
                if not self._cut_before:
                    cut = (
                        "a caption of %d tokens is cut to %d (`max_num_words`); others are counted"
                    )
                    logger.warning(cut, len(ids), self._most)
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
        """Return no more tokens than are encoded, the last of them the end of the sequence."""
        return ids if len(ids) <= self._most else ids[: self._most - 1] + ids[-1:]

    def _block_size(self) -> int:
        """Captions per run: one for wide encoders on a CPU, which are no faster with more."""
        import torch

        wide = self._model.config.hidden_size >= WIDE
        return 1 if wide and torch.device(self.device).type == "cpu" else BLOCK_SIZE

    def _embed(self, tokens: list[list[int]]) -> list[Tensor]:
        """Run one block, filled up to its full shape, and cut what was filled in off again."""
        import torch

        from minimagen.device import exactly

        length = min(_round_up(len(tokens[0])), self._positions)
        padding = self._model.config.pad_token_id or 0
        ids = torch.full((self._block_size(), length), padding)
        mask = torch.zeros_like(ids)
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = torch.tensor(each)
            mask[row, : len(each)] = 1
        mask[len(tokens) :, 0] = 1  # attention over no token at all is undefined
        with torch.inference_mode(), exactly(self.device):  # the cache does not know who asked
            output = self._model(ids.to(self.device), attention_mask=mask.to(self.device))
        rows = output.last_hidden_state[: len(tokens)].float().cpu()
        # inference tensors cannot enter autograd, and a view would keep its whole block alive
        return [row[: len(each)].clone() for row, each in zip(rows, tokens, strict=True)]


def _round_up(length: int) -> int:
    """Return the length of the block in which a caption of ``length`` tokens runs."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP
