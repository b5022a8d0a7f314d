"""T5 once per caption: encodings kept in memory."""

from collections.abc import Sequence

from torch import Tensor

from minimagen.text.encoding import TextEncoder, TextEncoding, pad_and_stack


class EmbeddingCache:
    """Encodes each distinct caption once and keeps the result.

    Args:
        encoder: The frozen text encoder.
        max_bytes: How much is kept; beyond it the oldest encodings go, so that endless captions
            cannot fill the memory.
    """

    def __init__(self, encoder: TextEncoder, max_bytes: int = 512 * 2**20) -> None:
        self.encoder = encoder
        self.max_bytes = max_bytes
        self._kept: dict[str, Tensor] = {}
        self._bytes = 0

    def __call__(self, captions: Sequence[str]) -> TextEncoding:
        """Return the padded encodings of ``captions``."""
        missing = list(dict.fromkeys(c for c in captions if c not in self._kept))
        found = {c: self._kept[c] for c in captions if c in self._kept}
        if missing:
            found |= dict(zip(missing, self.encoder.encode(missing), strict=True))
            for caption in missing:
                self._keep(caption, found[caption])
        return pad_and_stack([found[caption] for caption in captions])

    def _keep(self, caption: str, embeds: Tensor) -> None:
        self._kept[caption] = embeds
        self._bytes += embeds.nbytes
        while self._bytes > self.max_bytes:
            oldest = next(iter(self._kept))
            self._bytes -= self._kept.pop(oldest).nbytes
