"""TAESD: a small autoencoder without randomness, with Stable Diffusion's latents or its own."""

from torch import Tensor

from minimagen.autoencoders.training import TrainedAutoencoder, laplacian_error
from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.draws import Draws
from minimagen.images import Batch, to_model_space
from minimagen.networks.autoencoder import AutoencoderTiny


class TinyAutoencoder(TrainedAutoencoder):
    """Encodes to latents and decodes them."""

    network: AutoencoderTiny

    def __init__(self, index: int, config: AutoencoderConfig) -> None:
        super().__init__(index, config, AutoencoderTiny(config))

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the pyramid error of every example, float32 [b]."""
        images = to_model_space(batch.images)
        decoded = self.network.decode(self.network.encode(images))
        return laplacian_error(decoded, images, self.config.pyramid_levels)

    def moments(self, images: Tensor) -> Tensor:
        """Return the network's own latents."""
        return self.network.encode(images).float()
