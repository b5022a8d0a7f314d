"""Latent diffusion's autoencoder (arXiv 2112.10752): a Gaussian for every latent."""

import torch
from torch import Tensor

from minimagen.autoencoders.training import TrainedAutoencoder, laplacian_error
from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.device import to_device
from minimagen.draws import Draws
from minimagen.images import Batch, in_float32, to_model_space
from minimagen.networks.autoencoder import AutoencoderKL


class KLAutoencoder(TrainedAutoencoder):
    """Encodes to Gaussians, decodes their samples."""

    network: AutoencoderKL

    def __init__(self, index: int, config: AutoencoderConfig) -> None:
        super().__init__(index, config, AutoencoderKL(config))

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return pyramid error plus weighted KL divergence of every example, float32 [b].

        The weight is CompVis' in its own unit: of sums over latents and over the 3 h w pixels.
        """
        images = to_model_space(batch.images)
        mean, log_variance = map(in_float32, self.network.encode(images))
        eps = to_device(draws.normal("posterior", mean.shape[1:]), mean.device, mean.dtype)
        decoded = self.network.decode(mean + (log_variance / 2).exp() * eps)
        error = laplacian_error(decoded, images, self.config.pyramid_levels)
        divergence = (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(1) / 2
        return error + self.config.kl_weight * divergence / images[0].numel()

    def moments(self, images: Tensor) -> Tensor:
        """Return mean and standard deviation of the latents, [b 2c h/f w/f]."""
        mean, log_variance = self.network.encode(images)
        return torch.cat([mean, (log_variance / 2).exp()], dim=1).float()

    def sampled(self, moments: Tensor, draws: Draws | None) -> Tensor:
        """Return scaled latents: the mean, or with ``draws`` a sample."""
        mean, std = moments.chunk(2, dim=1)
        if draws is not None:
            eps = to_device(draws.normal("posterior", mean.shape[1:]), mean.device, mean.dtype)
            mean = mean + std * eps
        return self.scaled(mean)

    def unscaled(self, images: Tensor) -> Tensor:
        """Return latents as training sees them: a sample for each image, with a fixed generator."""
        mean, log_variance = map(in_float32, self.network.encode(images))
        numbers = Draws(0, self.name, 0, len(mean)).normal("measured", mean.shape[1:])
        return mean + (log_variance / 2).exp() * numbers.to(mean)
