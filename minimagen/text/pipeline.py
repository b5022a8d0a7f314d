"""The text encoder of a model in diffusers' format: CLIP of Stable Diffusion, T5 of DeepFloyd IF.

Every caption becomes as many tokens as in the model's training, padding included, to which the
model attends. Stable Diffusion 1 pads with the token that ends a caption, Stable Diffusion 2 with
"!": the tokenizer's own files say so. CLIP sees its padding, T5 masks it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from minimagen.errors import UserError
from minimagen.storage.files import read_json
from minimagen.storage.hub import located
from minimagen.text.encoding import TokenReport
from minimagen.text.fingerprint import fingerprint_of
from minimagen.text.network import choose_dtype, count_parameters, embed_dim_of, load_network
from minimagen.text.tokenizer import auto_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T5_TOKENS = 77
"""What IF was trained with; a CLIP's tokenizer has its own number."""
logger = logging.getLogger(__name__)


class PipelineEncoder:
    """A frozen text encoder; loads itself at the first caption.

    An embedding is given in two halves, [n 2d]: rounded to bfloat16, which is what text is kept in
    everywhere, and what the rounding leaves. Their sum has 16 bits of the embedding's mantissa.

    Args:
        name: ``diffusers:`` and a folder with ``text_encoder/`` and ``tokenizer/``, or a hub id.

    Raises:
        UserError: There is none.
    """

    def __init__(self, name: str) -> None:
        self.name, self.device = name, "cpu"
        self._folder = located(name.partition(":")[2])
        for part in ("text_encoder", "tokenizer"):
            if not (self._folder / part).is_dir():
                raise UserError(f"{self._folder} has no {part}: it is no model with a text encoder")
        config = read_json(self._folder / "text_encoder" / "config.json")
        self._is_t5 = config.get("model_type") == "t5"
        self._model: Any = None
        self._tokenizer: Any = None
        self._cut: set[int] = set()  # hashes: a stream has many captions

    @property
    def embed_dim(self) -> int:
        """The width of both halves together."""
        return 2 * embed_dim_of(str(self._folder / "text_encoder"))

    @property
    def size(self) -> int:
        """The number of parameters, known without loading weights."""
        return count_parameters(str(self._folder / "text_encoder"))

    @property
    def fingerprint(self) -> str:
        """What changes with the weights, the tokenizer or its padding; loads no weights."""
        parts = (self._folder / part for part in ("text_encoder", "tokenizer"))
        hashes = [fingerprint_of(part, self._tokens)[:16] for part in parts]
        return "-".join([*hashes, str(self._loaded().pad_token_id)])

    def to(self, device: torch.device | str) -> Self:
        """Move the network to ``device``, now or when it is loaded; returns itself."""
        import torch

        self.device = str(device)
        if self._model is not None:
            dtype = choose_dtype(self._model.config, torch.device(device))
            self._model.to(device=device, dtype=dtype)
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return ``[n, 2d]`` float32 CPU tensors, all of one length.

        A caption runs alone, so that it is the same to the bit in any batch.

        Raises:
            UserError: The encoder's files are missing or damaged.
        """
        if self._model is None:
            self._model = load_network(str(self._folder / "text_encoder"), self.device)
        self.inspect(captions)
        return [self._embed(caption) for caption in captions]

    def _embed(self, caption: str) -> Tensor:
        import torch

        from minimagen.device import exactly

        shape = {"padding": "max_length", "max_length": self._tokens, "truncation": True}
        tokens = self._loaded()(self._read(caption), return_tensors="pt", **shape)
        mask = tokens.attention_mask.to(self.device) if self._is_t5 else None
        with torch.inference_mode(), exactly(self.device):
            output = self._model(tokens.input_ids.to(self.device), attention_mask=mask)
        embedding = output.last_hidden_state[0].float().cpu().clone()
        rounded = embedding.bfloat16().float()
        return torch.cat([rounded, embedding - rounded], dim=-1)

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return how each caption is cut into tokens, its end included."""
        tokenizer = self._loaded()
        reports = [TokenReport(len(tokenizer(self._read(c)).input_ids), False) for c in captions]
        for caption, report in zip(captions, reports, strict=True):
            if report.tokens > self._tokens and hash(caption) not in self._cut:
                if not self._cut:
                    logger.warning(
                        "a caption of %d tokens is cut to %d: the model reads no more",
                        report.tokens,
                        self._tokens,
                    )
                self._cut.add(hash(caption))
        return reports

    def notes(self) -> list[str]:
        """Return how many different captions were cut so far."""
        if not self._cut:
            return []
        return [f"{len(self._cut)} different captions were cut to {self._tokens} tokens"]

    @property
    def _tokens(self) -> int:
        """Return the tokens of every caption."""
        return T5_TOKENS if self._is_t5 else int(self._loaded().model_max_length)

    def _read(self, caption: str) -> str:
        """Return what the tokenizer is given: IF was trained on lowercase."""
        return caption.lower().strip() if self._is_t5 else caption

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = auto_tokenizer(str(self._folder / "tokenizer"))
        return self._tokenizer
