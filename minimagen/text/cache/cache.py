"""T5 once per caption: encodings kept on disk and, the last ones, in memory."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from minimagen.errors import UserError
from minimagen.storage.tensor_store import TensorStore, hash_of, store_folder
from minimagen.text.encoding import TextEncoder, TokenReport

BESIDE_DISK, ALONE = 32 * 2**20, 512 * 2**20  # bytes in memory, with and without a disk
DRAWN_ON_DISK = 256 * 2**20  # bytes of captions that never end

log = logging.getLogger(__name__)


class EmbeddingCache:
    """Encodes each distinct caption once. Is itself a text encoder.

    All encodings are rounded to bfloat16, fresh ones too: a caption's is the same to the bit
    whether it was encoded now, earlier, or by another process.

    Args:
        encoder: The frozen text encoder.
        store: Keeps the encodings between runs; without one they are kept in memory only.

    Attributes:
        encoded: How many captions the encoder was asked for so far.
    """

    def __init__(self, encoder: TextEncoder, store: TensorStore | None = None) -> None:
        self.encoder, self.store = encoder, store
        self.name = encoder.name
        self._made_by = encoder.fingerprint
        self.encoded = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0

    @classmethod
    def on_disk(cls, encoder: TextEncoder, endless: bool = False) -> "EmbeddingCache":
        """Return a cache in the cache folder, or in memory where that cannot be written.

        Args:
            encoder: Its ``fingerprint`` names the folder.
            endless: The captions are drawn without end: only the first 256 MiB go to the disk.
        """
        try:
            folder = store_folder(encoder.name, encoder.fingerprint)
        except UserError as error:
            log.warning("text embeddings are kept in memory only: %s", error)
            return cls(encoder)
        return cls(encoder, TensorStore(folder, DRAWN_ON_DISK if endless else float("inf")))

    @property
    def embed_dim(self) -> int:
        """The width of an embedding."""
        return self.encoder.embed_dim

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self.encoder.fingerprint

    @property
    def is_stale(self) -> bool:
        """Whether its encoder has been trained since: what is kept is that of another one."""
        return self._made_by != self.encoder.fingerprint

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return how each caption is cut into tokens."""
        return self.encoder.inspect(captions)

    def notes(self) -> list[str]:
        """Return the encoder's notes: of the captions that were encoded anew."""
        return self.encoder.notes()

    def to(self, device: torch.device | str) -> Self:
        """Move the encoder to ``device``; returns itself."""
        self.encoder.to(device)
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` float32 tensor per caption."""
        return [embeds.float() for embeds in self.fill(captions)]

    def fill(self, captions: Sequence[str]) -> list[Tensor]:
        """Encode the captions that are missing; return bfloat16 ``[n_i, d]``, one per caption."""
        hashes = [hash_of(caption) for caption in captions]
        distinct = dict(zip(hashes, captions, strict=True))
        found = {each: self._kept[each] for each in distinct if each in self._kept}
        fresh = [each for each in distinct if each not in found]
        if fresh and self.store is not None:
            new = self.store.find(fresh)
            self._keep(new)
            found |= new
            fresh = [each for each in fresh if each not in found]
        if fresh:
            embeds = self.encoder.encode([distinct[each] for each in fresh])
            block = torch.cat(embeds).to(torch.bfloat16)  # one block, as from the disk
            new = dict(zip(fresh, block.split([len(each) for each in embeds]), strict=True))
            self.encoded += len(fresh)
            if self.store is not None:
                self.store.add(new)
            self._keep(new)
            found |= new
        return [found[each] for each in hashes]

    def _keep(self, encodings: dict[bytes, Tensor]) -> None:
        """Keep what is new, and let the oldest go when there is too much."""
        self._kept |= encodings
        self._bytes += sum(embeds.nbytes for embeds in encodings.values())
        on_disk = self.store is not None and self.store.refused is None
        limit = BESIDE_DISK if on_disk else ALONE
        # What was just asked for stays: the loader encodes a window, then takes it batch by batch.
        while self._bytes > limit and len(self._kept) > len(encodings):
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
