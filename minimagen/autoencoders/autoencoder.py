"""The contract of an autoencoder: images to latents and back."""

from typing import Any, Protocol

from torch import Tensor

from minimagen.device import Movable
from minimagen.draws import Draws


class Autoencoder(Movable, Protocol):
    """Maps images [b 3 h w] in model space to latents [b channels h/factor w/factor] and back.

    Moves and converts as any ``nn.Module``; the pixels themselves have nothing to move.

    Attributes:
        channels: Of the latents.
        factor: Pixels of a latent's side.
        bounded: Whether latents lie in [-1, 1], so that clamping and thresholding make sense.
    """

    channels: int
    factor: int
    bounded: bool

    @property
    def fingerprint(self) -> str | None:
        """What changes with the latents of an image; None for the pixels themselves."""
        ...

    def moments(self, images: Tensor) -> Tensor:
        """Return all that latents are made of, [b m h/factor w/factor]: what a cache keeps."""
        ...

    def sampled(self, moments: Tensor, draws: Draws | None) -> Tensor:
        """Return latents; with ``draws``, in training, they may be random."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return images."""
        ...

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return what is left of images [b 3 h w] after encoding and decoding."""
        ...

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Do what ``nn.Module`` does wherever it is moved or converted."""
        ...
