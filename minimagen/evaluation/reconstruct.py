"""What an autoencoder leaves of images that it was not trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minimagen.autoencoders.discrete import usage
from minimagen.autoencoders.training import TrainedAutoencoder
from minimagen.data.loading.reading import stack_images
from minimagen.evaluation.metrics import color_shift, grain
from minimagen.images import psnr, to_model_space
from minimagen.sample import Sample

AT_ONCE = 32


@dataclass(frozen=True)
class Reconstruction:
    """What was measured, on ``count`` images.

    Attributes:
        count: Images.
        psnr: Mean, dB.
        color_shift: Mean of the largest difference of a channel's mean, in 1/255.
        grain: Noise in flat parts of the reconstructions and of the images, in 1/255.
        latent_mean: Of each channel of the scaled latents.
        latent_std: Of each channel of the scaled latents.
        usage: Share of codes that occur, and their perplexity; None where latents are continuous.
        codes: Number of codes; 0 where latents are continuous.
        images: Reconstructions of the first images, in model space [b 3 h w].
    """

    count: int
    psnr: float
    color_shift: float
    grain: tuple[float, float]
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    usage: tuple[float, float] | None
    codes: int
    images: Tensor

    def lines(self) -> Iterator[str]:
        """Yield the figures as text."""
        yield f"PSNR {self.psnr:.2f} dB (n {self.count})"
        yield f"color shift {self.color_shift:.2f}/255"
        yield f"grain {self.grain[0]:.1f}/255 (the images: {self.grain[1]:.1f})"
        mean, std = (
            ", ".join(f"{x:.3f}" for x in values) for values in (self.latent_mean, self.latent_std)
        )
        yield f"latents: mean {mean}; standard deviation {std}"
        if self.usage is not None:
            share, perplexity = self.usage
            yield f"{100 * share:.1f} % of {self.codes} codes are used, perplexity {perplexity:.0f}"


@torch.inference_mode()
def reconstruct(autoencoder: TrainedAutoencoder, samples: Sequence[Sample]) -> Reconstruction:
    """Measure an autoencoder on images."""
    autoencoder.eval()
    device = autoencoder.device
    made, real, latents, counts = [], [], [], []
    for start in range(0, len(samples), AT_ONCE):
        images = to_model_space(stack_images(samples[start : start + AT_ONCE]))
        there = images.to(device)
        made.append(autoencoder.reconstruct(there).clamp(-1.0, 1.0).cpu())
        real.append(images)
        scaled = autoencoder.scaled(autoencoder.unscaled(there))
        latents.append(scaled.transpose(0, 1).flatten(1).cpu().double())
        counts.append(autoencoder.counts(there))
    images, others, values = torch.cat(made), torch.cat(real), torch.cat(latents, dim=1)
    return Reconstruction(
        len(samples),
        float(psnr(images, others).mean()),
        float(color_shift(images, others).mean()),
        (float(grain(images).mean()), float(grain(others).mean())),
        tuple(values.mean(1).tolist()),
        tuple(values.std(1).tolist()),
        usage(torch.stack(counts).sum(0)) if autoencoder.codes else None,
        autoencoder.codes,
        images,
    )
