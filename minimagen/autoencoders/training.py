"""What autoencoders that are trained here share: their loss, their sheets, what identifies them."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.device import to_device
from minimagen.draws import Draws
from minimagen.images import Batch, in_float32, psnr, to_model_space
from minimagen.learner import ParameterGroups, Unread, weights_in
from minimagen.networks.autoencoder import AutoencoderNetwork
from minimagen.storage.pretrained import AutoencoderIdentity, Part, fingerprint_of


def laplacian_error(images: Tensor, others: Tensor, levels: int) -> Tensor:
    """Return the mean absolute error of a Laplacian pyramid, summed over its levels, [b].

    Each level is what halving the image loses, the last one is what is left of it. Beside the error
    of the pixels it weighs edges and areas alike.
    """
    difference = in_float32(images) - in_float32(others)
    total = difference.new_zeros(len(images))
    for _ in range(levels - 1):
        if min(difference.shape[-2:]) < 2:
            break
        small = F.avg_pool2d(difference, 2)
        lost = difference - F.interpolate(small, size=difference.shape[-2:], mode="nearest")
        total = total + lost.abs().flatten(1).mean(1)
        difference = small
    return total + difference.abs().flatten(1).mean(1)


MEASURED = 2048  # images of the training whose latents are measured
LEAST_STD = 1e-6  # of a channel that says something
ENCODES = {
    "kind", "levels", "scaling_factor", "shift_factor", "latents_mean", "latents_std"
}  # fmt: skip
"""What latents depend on, beside the weights."""


class TrainedAutoencoder(Part):
    """An autoencoder with a loss.

    Args:
        index: Its place among the autoencoders, from 0.
        config: Its network, its loss, the statistics of its latents.
        network: The network.
    """

    reads = Unread()
    config: AutoencoderConfig

    def __init__(self, index: int, config: AutoencoderConfig, network: AutoencoderNetwork) -> None:
        super().__init__()
        self.name, self.config, self.network = f"autoencoder_{index}", config, network
        self.image_sizes = (config.image_size,)
        self.channels, self.factor, self.bounded = config.channels, config.factor, False
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lists others

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return next(self.parameters()).device

    @property
    def own_identity(self) -> AutoencoderIdentity:
        """Return what its weights depend on."""
        return AutoencoderIdentity(autoencoder=self.config.unmeasured())

    @property
    def fingerprint(self) -> str:
        """What changes with the configuration or the weights."""
        also = {"color_codes"} if self.config.color_codes else set()  # older ones have no such key
        return fingerprint_of(self, self.config.model_dump_json(include=ENCODES | also))

    def parameter_groups(self) -> ParameterGroups:
        """Return the kernels that map features to features, and all else."""
        inner = [weight for weight in weights_in(self.network) if min(weight.shape[:2]) >= 16]
        return ParameterGroups.of(self, inner)

    def encode(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        """Return latents [b c h/f w/f]; with ``draws``, in training, they may be random."""
        return self.sampled(self.moments(images), draws)

    @abstractmethod
    def moments(self, images: Tensor) -> Tensor:
        """Return all that latents are made of, float32 [b m h/f w/f]: what a cache keeps."""

    def sampled(self, moments: Tensor, draws: Draws | None) -> Tensor:
        """Return scaled latents from ``moments``; with ``draws`` they may be random."""
        return self.scaled(moments)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [b 3 h w], about in [-1, 1]."""
        return self.network.decode(self.rescaled(latents)).float()

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return what is left of images [b 3 h w] in model space after coding, as it is used."""
        return self.decode(self.encode(images))

    @property
    def codes(self) -> int:
        """Return how many codes the latents are vectors of; 0 where they are continuous."""
        return 0

    def counts(self, images: Tensor) -> Tensor:
        """Return how often each code occurs in images [b 3 h w], float64 [codes] on the CPU."""
        return torch.zeros(0, dtype=torch.float64)

    @torch.inference_mode()
    def shown(self, batch: Batch) -> list[Tensor]:
        """Return images and what becomes of them."""
        images = to_model_space(batch.images)
        return [images, self.reconstruct(images).clamp(-1.0, 1.0)]

    @property
    def concluded(self) -> bool:
        """Return whether its latents are measured: stages are trained with these numbers."""
        return self.config.latents_mean is not None

    def forget(self) -> None:
        """Forget how its latents vary."""
        self.config = self.config.unmeasured()

    @torch.inference_mode()
    def conclude(self, seen: Iterable[Batch], held_out: Sequence[Batch]) -> list[str]:
        """Measure each channel of the latents of training; say how good reconstructions are."""
        latents, count = [], 0
        for batch in seen:
            images = to_model_space(batch.images.to(self.device))
            latents.append(self.unscaled(images).transpose(0, 1).flatten(1).cpu().double())
            count += len(images)
            if count >= MEASURED:
                break
        values = torch.cat(latents, dim=1)
        mean, std = values.mean(1).tolist(), values.std(1).tolist()
        varying = [1.0 if each < LEAST_STD else each for each in std]
        self.config = self.config.measured(mean, varying)
        constant = [str(i) for i, each in enumerate(std) if each < LEAST_STD]
        notes = [f"{self.name}: channels {', '.join(constant)} of the latents are constant: they "
                 "carry nothing"] if constant else []  # fmt: skip
        real = (to_model_space(batch.images.to(self.device)) for batch in held_out)
        ratio = torch.cat([psnr(self.reconstruct(x).clamp(-1.0, 1.0), x) for x in real])
        return [f"{self.name}: PSNR {float(ratio.mean()):.2f} dB on {len(ratio)} images", *notes]

    def unscaled(self, images: Tensor) -> Tensor:
        """Return the network's own latents, as they vary: the scale is not applied."""
        return self.moments(images)

    def scaled(self, latents: Tensor) -> Tensor:
        """Return the network's latents with mean 0 and variance 1: what a stage denoises."""
        shift, scale = self._scale(latents)
        return (latents - shift) * scale

    def rescaled(self, latents: Tensor) -> Tensor:
        """Return a stage's latents as the network has them."""
        shift, scale = self._scale(latents)
        return latents / scale + shift

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is subtracted from latents and what they are then multiplied by."""
        config = self.config
        if config.latents_mean is None or config.latents_std is None:
            both = [config.shift_factor or 0.0, config.scaling_factor]
            shift, scale = to_device(torch.tensor(both, dtype=like.dtype), like.device)
            return shift, scale
        measured = torch.tensor([config.latents_mean, config.latents_std], dtype=like.dtype)
        mean, std = to_device(measured[..., None, None], like.device)
        return mean, config.scaling_factor / std
