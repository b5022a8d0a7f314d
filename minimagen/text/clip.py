"""A CLIP that is trained here: images and captions -> vectors that agree (arXiv 2103.00020)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimagen.config import ClipConfig
from minimagen.device import to_device
from minimagen.draws import Draws
from minimagen.images import Batch, to_model_space
from minimagen.jitter import jittered
from minimagen.learner import ParameterGroups, Unread, weights_in
from minimagen.networks.clip import TextTower, image_tower
from minimagen.storage.pretrained import ClipIdentity, Part
from minimagen.storage.tensor_store import hash_of
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.contrastive import (
    FIRST_BIAS,
    FIRST_SCALE,
    FIRST_SIGMOID_SCALE,
    LARGEST_SCALE,
    gathered,
    info_nce,
    sigmoid_loss,
)
from minimagen.text.encoding import pad_and_stack
from minimagen.text.files import read_config
from minimagen.text.names import T5_MINI
from minimagen.text.pretrained import PretrainedEncoder

BYTES = 256
PADDING = 0


class Clip(Part):
    """An image tower and a text tower, and how sharply they are compared.

    Args:
        config: Both towers, the loss.
        encoder: Whose states (locked) or pieces (sentencepiece) the text tower reads; None where it
            reads characters.

    Raises:
        ValueError: There is an encoder for characters, or none for the other kinds.
    """

    name, per_example, reads = "clip", False, Unread()
    config: ClipConfig

    def __init__(self, config: ClipConfig, encoder: PretrainedEncoder | None) -> None:
        super().__init__()
        self.config = config
        self.image_sizes = (config.image_size,)
        text = config.text
        if (encoder is None) != (text.kind == "characters"):
            raise ValueError(f"a text tower of kind {text.kind} with the encoder {encoder}")
        self._frozen = encoder if text.kind == "locked" else None
        self._pieces = encoder if text.kind == "sentencepiece" else None
        token_dim = 0 if self._frozen is None else self._frozen.embed_dim
        vocabulary = BYTES if text.kind == "characters" else None
        if self._pieces is not None:
            vocabulary = read_config(str(T5_MINI))["vocab_size"]
        self._reader = (
            None if self._frozen is None else EmbeddingCache.on_disk(self._frozen, endless=True)
        )
        self.image = image_tower(config.image, config.image_size, config.embed_dim)
        self.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lists others
        self.text = TextTower(
            text.dim, text.depth, text.heads, config.embed_dim, text.max_length, vocabulary,
            token_dim,
        )  # fmt: skip
        sigmoid = config.loss == "sigmoid"
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SIGMOID_SCALE if sigmoid else FIRST_SCALE))
        self.bias = nn.Parameter(torch.tensor(FIRST_BIAS)) if sigmoid else None

    @property
    def own_identity(self) -> ClipIdentity:
        """Return what its weights depend on."""
        used = {"pooled_only": False, "prompts": ("{}",), "jitter": 0.0}  # weights fit any
        reads = None if self._frozen is None else self._frozen.fingerprint
        return ClipIdentity(clip=self.config.replace(**used), reads=reads)

    @property
    def trained_with(self) -> dict[str, Any]:
        """Return how its images and captions are varied in training."""
        return self.config.model_dump(mode="json", include={"prompts", "jitter"})

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the frozen text encoder too."""
        moved = super()._apply(fn, recurse)
        if self._frozen is not None:
            self._frozen.to(self.log_scale.device)
        return moved

    def parameter_groups(self) -> ParameterGroups:
        """Return the matrices and kernels inside the towers, and all else."""
        return ParameterGroups.of(self, weights_in(self.image.inner, self.text.layers))

    def after_step(self) -> None:
        """Keep 1 / temperature between 1 and 100."""
        with torch.no_grad():
            self.log_scale.clamp_(0.0, LARGEST_SCALE)

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss of every row above its least possible value, float32 [b].

        In training the rows are compared with those of all processes.
        """
        seen = to_model_space(batch.images)
        if self.training:
            seen = jittered(seen, draws, self.config.jitter)
        images, texts = self.of_images(seen), self.of_captions(self._asked(batch, draws))
        hashes = [int.from_bytes(hash_of(text)[:7], "little") for text in batch.captions]
        keys = to_device(torch.tensor(hashes), images.device)
        every = (images, texts, keys)
        if self.training:
            every = (gathered(images), gathered(texts), gathered(keys))
        same = keys[:, None] == every[2]
        scale = self.log_scale.to(images.dtype).exp()
        if self.bias is not None:
            return sigmoid_loss(images, scale, self.bias, same, every[1])
        return info_nce(images, texts, scale, same, every[:2])

    def _asked(self, batch: Batch, draws: Draws) -> list[str]:
        """Return the captions of a batch, in training each in a prompt of its own."""
        prompts = self.config.prompts
        if not self.training or len(prompts) == 1:
            return [prompts[0].replace("{}", caption) for caption in batch.captions]
        chosen = (draws.uniform("prompt") * len(prompts)).long().tolist()
        pairs = zip(chosen, batch.captions, strict=True)
        return [prompts[i].replace("{}", caption) for i, caption in pairs]

    def of_images(self, images: Tensor) -> Tensor:
        """Return the unit vectors [b embed_dim] of images [b 3 h w], uint8 or in model space."""
        dtype = self.log_scale.dtype
        return _unit(self.image(to_model_space(images).to(dtype)), dtype)

    def tokens_of(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return what the text tower reads of captions, and the mask of real tokens."""
        if self._reader is None:
            return self._ids(captions)
        text = pad_and_stack(self._reader.encode(captions))
        device = self.log_scale.device
        return self._cut(*(to_device(each, device) for each in text.pair))

    def of_captions(self, captions: Sequence[str]) -> Tensor:
        """Return the unit vectors [b embed_dim] of captions."""
        return _unit(self.text(*self.tokens_of(captions))[0], self.log_scale.dtype)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Return the number of tokens of each caption, before any is cut."""
        if self._frozen is not None:
            return [report.tokens for report in self._frozen.inspect(captions)]
        return [len(ids) for ids in self._uncut(captions)]

    def _cut(self, embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        most = self.config.text.max_length
        return embeds[:, :most].to(self.log_scale.dtype), mask[:, :most]

    def _uncut(self, captions: Sequence[str]) -> list[list[int]]:
        if self._pieces is not None:
            return self._pieces.tokenize(captions)
        return [list(caption.encode("utf-8", "surrogatepass")) or [PADDING] for caption in captions]

    def _ids(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        most = self.config.text.max_length
        cut = [torch.tensor(ids[:most]) for ids in self._uncut(captions)]
        ids = nn.utils.rnn.pad_sequence(cut, batch_first=True, padding_value=PADDING)
        lengths = torch.tensor([len(each) for each in cut])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        device = self.log_scale.device
        return to_device(ids, device), to_device(mask, device)


def _unit(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    return F.normalize(vectors.to(dtype), dim=-1)
