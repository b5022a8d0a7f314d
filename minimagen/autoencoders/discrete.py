"""Autoencoders whose latents are codes of a finite number: tokens for a transformer.

Two quantisers: finite scalars (FSQ, arXiv 2309.15505), which round each of a few channels, and
DALL-E's relaxed choice among learned vectors (Gumbel-softmax, arXiv 2102.12092, section 2.1).
Codes are found and read in float32: those above 256 do not survive bfloat16.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimagen.autoencoders.colors import ColorCodes, NoColorCodes
from minimagen.autoencoders.training import TrainedAutoencoder, laplacian_error
from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.config.sizes import Size
from minimagen.device import exactly, to_device
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch, in_float32, to_model_space
from minimagen.networks.autoencoder import AutoencoderNetwork, Decoder, Encoder
from minimagen.networks.codes import digits_of

FSQ_MARGIN = 1e-3  # of the bound, so that the outermost values can be reached


class Quantiser(nn.Module, ABC):
    """Features [b d h w] -> codes, and codes -> vectors [b c h w]."""

    inputs: int
    """d."""
    channels: int
    """c."""
    codes: int
    """How many there are."""

    @abstractmethod
    def relaxed(self, features: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return vectors for training, and what their choice adds to the loss, [b]."""

    @abstractmethod
    def chosen(self, features: Tensor) -> Tensor:
        """Return the codes, int64 [b h w]."""

    @abstractmethod
    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes [b h w]."""


class FiniteScalars(Quantiser):
    """Rounds each channel to one of its levels; gradients pass through the rounding.

    Args:
        levels: Values of each channel.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.inputs = self.channels = len(levels)
        self.codes, self.channel_levels = math.prod(levels), tuple(levels)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def _bounded(self, features: Tensor) -> Tensor:
        """Return features between the outermost levels, which are whole numbers apart."""
        levels = self.levels[:, None, None]
        half = (levels - 1) * (1 + FSQ_MARGIN) / 2
        offset = 0.5 * (levels % 2 == 0)
        shift = torch.atanh(offset / half)
        return torch.tanh(in_float32(features) + shift) * half - offset

    def relaxed(self, features: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return rounded vectors in [-1, 1], with the gradient of what was rounded."""
        bounded = self._bounded(features)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / self._half_width(), rounded.new_zeros(len(features))

    def _half_width(self) -> Tensor:
        return (self.levels // 2)[:, None, None].float()

    def chosen(self, features: Tensor) -> Tensor:
        """Return the codes, int64 [b h w]."""
        digits = self._bounded(features).round().long() + (self.levels // 2)[:, None, None]
        # the margin is half a level where there are 1000
        digits = digits.clamp(min=0).minimum(self.levels[:, None, None] - 1)
        return (digits * self.basis[:, None, None]).sum(1)

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes [b h w]."""
        digits = digits_of(codes, self.channel_levels).movedim(-1, 1)
        return digits.float() / self._half_width() - 1.0


class GumbelSoftmax(Quantiser):
    """A relaxed choice among learned vectors, which the end of training makes sharp.

    Args:
        config: The number of codes, the width of their vectors, the temperatures, the KL's weight.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.inputs, self.codes = config.num_codes, config.num_codes
        self.channels, self.config = config.codebook_dim, config
        self.codebook = nn.Embedding(config.num_codes, config.codebook_dim)

    def relaxed(self, features: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return mixed vectors, hard ones in the second half of training, and the weighted KL.

        The KL divergence is that from a uniform choice, the mean over cells; its weight grows from
        0 to ``kl_weight`` in the first half.
        """
        logits = in_float32(features)
        numbers = to_device(draws.normal("gumbel", logits.shape[1:]), logits.device, logits.dtype)
        uniform = torch.special.ndtr(numbers).clamp(1e-6, 1.0 - 1e-6)
        first, last = self.config.temperatures
        temperature = first ** (1.0 - draws.progress) * last**draws.progress
        soft = ((logits - torch.log(-torch.log(uniform))) / temperature).softmax(1)
        if draws.progress > 0.5:
            hard = F.one_hot(soft.argmax(1), self.codes).movedim(-1, 1).to(soft)
            soft = soft + (hard - soft).detach()
        log_p = logits.log_softmax(1)
        divergence = (log_p.exp() * (log_p + math.log(self.codes))).sum(1).flatten(1).mean(1)
        weight = self.config.kl_weight * min(1.0, 2.0 * draws.progress)
        mixed = torch.einsum("bkhw,kc->bchw", soft, in_float32(self.codebook.weight))
        return mixed, weight * divergence

    def chosen(self, features: Tensor) -> Tensor:
        """Return the most likely codes, int64 [b h w]."""
        return features.argmax(1)

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes [b h w]."""
        return rearrange(self.codebook(codes), "b h w c -> b c h w").float()


class DiscreteNetwork(AutoencoderNetwork):
    """Encoder, quantiser, decoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        fsq = config.kind == "fsq"
        self.quantiser = FiniteScalars(config.levels) if fsq else GumbelSoftmax(config)
        self.encoder = Encoder(config, self.quantiser.inputs)
        self.decoder = Decoder(config, self.quantiser.channels)

    def decode(self, vectors: Tensor) -> Tensor:
        """Return the images of the quantiser's vectors."""
        return self.decoder(vectors.to(self.decoder.conv_in.weight.dtype))


class DiscreteAutoencoder(TrainedAutoencoder):
    """Encodes to codes, decodes their vectors.

    With ``color_codes`` the first rows of an image's codes are its colors, and 0 where they leave
    room; the encoder sees the image without them, and latents are those of this image alone, so
    that only ``detokenize`` gives images.
    """

    network: DiscreteNetwork

    def __init__(self, index: int, config: AutoencoderConfig) -> None:
        super().__init__(index, config, DiscreteNetwork(config))
        self.colors = ColorCodes(self.codes) if config.color_codes else NoColorCodes()

    @property
    def codes(self) -> int:
        """Return how many codes there are."""
        return self.network.quantiser.codes

    def grid(self, size: Size) -> Size:
        """Return the rows and columns of the codes of an image of ``size``."""
        height, width = (side // self.factor for side in size)
        return height + self.colors.rows(width), width

    def counts(self, images: Tensor) -> Tensor:
        """Return how often each code occurs; those of colors are not counted."""
        codes, _ = self.colors.split(self.tokenize(images))
        return torch.bincount(codes.flatten().cpu(), minlength=self.codes).double()

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return pyramid error and the quantiser's own part, float32 [b]; hard in evaluation."""
        images = to_model_space(batch.images)
        seen, colors = self.colors.separate(images)
        features, quantiser = self.network.encoder(seen), self.network.quantiser
        if self.training:
            vectors, own = quantiser.relaxed(features, draws)
        else:
            vectors, own = quantiser.vectors(quantiser.chosen(features)), images.new_zeros(1)
        decoded = self.colors.combine(self.network.decode(vectors), colors)
        return laplacian_error(decoded, images, self.config.pyramid_levels) + own

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Return the codes of images [b 3 h w] in model space, int64 [b rows columns] (`grid`)."""
        with exactly(images.device):
            own = self.network.decoder.conv_in.weight.dtype
            seen, colors = self.colors.separate(images)
            codes = self.network.quantiser.chosen(self.network.encoder(seen.to(own)))
            return self.colors.prepend(codes, colors)

    @torch.no_grad()
    def detokenize(self, codes: Tensor) -> Tensor:
        """Return the images [b 3 h w] of codes [b rows columns], about in [-1, 1]."""
        with exactly(codes.device):
            others, colors = self.colors.split(codes)
            decoded = self.network.decode(self.network.quantiser.vectors(others))
            return self.colors.combine(decoded, colors).float()

    def blank(self, grid: Size) -> Tensor:
        """Return codes of nothing: 0, and those of a gray image's colors; int64 [1 h w]."""
        height, width = grid[0] - self.colors.rows(grid[1]), grid[1]
        codes = torch.zeros(1, height, width, dtype=torch.long, device=self.device)
        return self.colors.prepend(codes, self.colors.gray(self.device))

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [b 3 h w], about in [-1, 1].

        Raises:
            UserError: The latents say nothing of colors.
        """
        if self.config.color_codes:
            raise UserError(f"{self.name} has color_codes: its latents say nothing of colors")
        return super().decode(latents)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the images of the codes."""
        return self.detokenize(self.tokenize(images))

    def moments(self, images: Tensor) -> Tensor:
        """Return the vectors of the codes, without those of colors."""
        codes, _ = self.colors.split(self.tokenize(images))
        return self.network.quantiser.vectors(codes)

    @torch.inference_mode()
    def conclude(self, seen: Iterable[Batch], held_out: Sequence[Batch]) -> list[str]:
        """Measure the vectors; say how many codes are used, and how evenly."""
        lines = super().conclude(seen, held_out)
        images = (to_model_space(batch.images.to(self.device)) for batch in held_out)
        counts = torch.stack([self.counts(each) for each in images]).sum(0)
        used, perplexity = usage(counts)
        return [
            *lines,
            f"{self.name}: {100 * used:.1f} % of {self.codes} codes are used by "
            f"{int(counts.sum())} tokens, perplexity {perplexity:.0f}",
        ]


def usage(counts: Tensor) -> tuple[float, float]:
    """Return the share of codes that occur, and the perplexity: how many, if used evenly."""
    p = counts / counts.sum()
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    return float((counts > 0).double().mean()), float(entropy.exp())
