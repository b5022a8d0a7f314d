"""Autoencoders: between images and the latents that a stage denoises, or the tokens it predicts."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from minimagen.checked import Config, PositiveInt
from minimagen.config.sizes import SquareOrSize

FACTOR = 2  # of every level
MOST_CODES = 65_536
LEAST_CODES = 32
"""Where colors are codes: then they are exact to 4/255."""


class AutoencoderConfig(Config):
    """An autoencoder. Where diffusers has a key for the same thing, it is called so here."""

    kind: Literal["kl", "tiny", "fsq", "gumbel"] = "kl"
    """kl: Stable Diffusion's (arXiv 2112.10752); tiny: TAESD's; fsq: tokens of rounded numbers
    (arXiv 2309.15505); gumbel: tokens of DALL-E's kind (arXiv 2102.12092)."""
    image_size: SquareOrSize
    """(height, width) of the images that it is trained on; it takes others too."""
    block_out_channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 64), min_length=1)
    """Channels of the levels, that of full size first; each halves the sides of the one before."""
    layers_per_block: PositiveInt = 1
    """Residual blocks of each level."""
    latent_channels: PositiveInt = 4
    """Of kl and tiny; fsq has one for each of ``levels``, gumbel those of its codes."""
    norm_num_groups: PositiveInt = 8
    """Groups of every group normalization."""
    mid_block_add_attention: bool = False
    """Self-attention at the lowest resolution."""
    use_quant_conv: bool = False
    """A 1 x 1 convolution after the encoder (kl)."""
    use_post_quant_conv: bool = False
    """A 1 x 1 convolution before the decoder (kl)."""
    scaling_factor: Annotated[float, Field(gt=0.0)] = 1.0
    """Latents are (z - shift_factor) x this where there is no latents_std."""
    shift_factor: float | None = None
    """Subtracted from latents before they are scaled."""
    latents_mean: tuple[float, ...] | None = None
    """Mean of each channel, measured at the end of the training; latents are (z - mean) / std."""
    latents_std: tuple[float, ...] | None = None
    """Standard deviation of each channel, measured with the mean."""
    kl_weight: Annotated[float, Field(ge=0.0)] = 1e-5
    """Of kl: of the KL divergence summed over latents, beside the absolute error summed over
    pixels. Of gumbel: of the mean KL divergence of a cell from the uniform choice."""
    pyramid_levels: PositiveInt = 3
    """Of the Laplacian pyramid whose absolute error is the loss."""
    levels: tuple[Annotated[int, Field(ge=2)], ...] = Field(default=(8, 6, 5), min_length=1)
    """Of fsq: the values of each latent channel; their product is the number of codes."""
    color_codes: bool = False
    """Of fsq and gumbel, for stages of tokens: the mean of an image's colors and their principal
    axes are its first twelve codes, and the other codes do not depend on color."""
    num_codes: PositiveInt = 240
    """Of gumbel."""
    codebook_dim: PositiveInt = 32
    """Of gumbel: the width of a code's vector."""
    temperatures: tuple[PositiveFloat, PositiveFloat] = (1.0, 0.0625)
    """Of gumbel's softmax, from the first to the last step."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ValueError(
                f"norm_num_groups {self.norm_num_groups} must divide each of block_out_channels "
                f"{self.block_out_channels}"
            )
        if any(side < 1 or side % self.factor for side in self.image_size):
            height, width = self.image_size
            raise ValueError(f"image_size {height} x {width} is not divisible by {self.factor}")
        if self.codes > MOST_CODES:
            raise ValueError(f"{self.codes} codes are more than {MOST_CODES}: give fewer levels")
        if self.color_codes and self.codes < LEAST_CODES:
            what = f"{self.codes} codes" if self.is_discrete else f"kind {self.kind}"
            raise ValueError(
                f"color_codes needs at least {LEAST_CODES} codes of kind fsq or gumbel, not {what}"
            )
        if (self.latents_mean is None) != (self.latents_std is None):
            raise ValueError("latents_mean and latents_std are given together or not at all")
        return self

    @property
    def factor(self) -> int:
        """Return how many pixels a latent's side has."""
        return int(FACTOR ** (len(self.block_out_channels) - 1))

    @property
    def channels(self) -> int:
        """Return the channels of the latents."""
        if self.kind == "fsq":
            return len(self.levels)
        return self.codebook_dim if self.kind == "gumbel" else self.latent_channels

    @property
    def is_discrete(self) -> bool:
        """Return whether its latents are codes of a finite number."""
        return self.kind in ("fsq", "gumbel")

    @property
    def codes(self) -> int:
        """Return the number of different codes; 0 where latents are continuous."""
        if self.kind == "fsq":
            return math.prod(self.levels)
        return self.num_codes if self.kind == "gumbel" else 0

    @property
    def code_levels(self) -> tuple[int, ...]:
        """Return how many values each channel of a code has; none where codes have no channels."""
        return self.levels if self.kind == "fsq" else ()

    def unmeasured(self) -> Self:
        """Return the configuration as it was before its latents were measured."""
        return self.replace(latents_mean=None, latents_std=None)

    def measured(self, mean: Any, std: Any) -> Self:
        """Return the configuration with statistics of the latents."""
        return self.replace(latents_mean=tuple(mean), latents_std=tuple(std))
