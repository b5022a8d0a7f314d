"""The identity: a diffusion stage that denoises the pixels themselves."""

from torch import Tensor, nn

from minimagen.draws import Draws


class Pixels(nn.Module):
    """An autoencoder whose latents are the images."""

    channels, factor, bounded = 3, 1, True
    fingerprint = None

    def moments(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def sampled(self, moments: Tensor, draws: Draws | None) -> Tensor:
        """Return the images."""
        return moments

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents."""
        return latents
