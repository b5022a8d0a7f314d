"""CLIP: an image tower and a text tower that are trained to agree."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from minimagen.checked import Config, Fraction, PositiveInt
from minimagen.config.networks import AttentionConfig
from minimagen.config.sizes import SquareOrSize


class ImageTowerConfig(AttentionConfig):
    """The network that sees the images."""

    kind: Literal["cnn", "vit"] = "cnn"
    """cnn: a convolution of stride 2 and a residual block for each of ``dims``; vit: a transformer
    over patches, for 64 px and more."""
    dims: tuple[PositiveInt, ...] = Field(default=(32, 64, 128, 256), min_length=1)
    """Channels of the cnn's levels, each half as wide and high as the one before."""
    norm_group_channels: PositiveInt = 8
    """Least channels of a group of the cnn's normalizations; a CPU is fast from 16 on."""
    patch_size: PositiveInt = 8
    """Of the vit, as the three below."""
    dim: PositiveInt = 192
    """Width of the vit."""
    depth: PositiveInt = 6
    """Transformer layers of the vit."""
    heads: PositiveInt = 3
    """Heads of the vit's attention; they divide ``dim``."""

    @property
    def divisor(self) -> int:
        """Return what both sides of an image must be divisible by."""
        return 2 ** len(self.dims) if self.kind == "cnn" else self.patch_size


class TextTowerConfig(AttentionConfig):
    """The network that reads the captions."""

    kind: Literal["characters", "sentencepiece", "locked"] = "locked"
    """characters: UTF-8 bytes; sentencepiece: pieces of t5_mini's vocabulary; locked: the frozen
    states of ``encoder``, the only kind that can know words that no caption had."""
    encoder: str = "t5_mini"
    """The frozen text encoder that locked reads; a short name, a hub id or a folder."""
    max_length: PositiveInt = 64
    """Longest caption in tokens; longer ones are cut."""
    dim: PositiveInt = 128
    """Width of the tower."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Transformer layers before the pooling."""
    heads: PositiveInt = 4
    """Heads of its attention; they divide ``dim``."""


class ClipConfig(Config):
    """A CLIP (arXiv 2103.00020)."""

    image_size: SquareOrSize
    """(height, width) of its images."""
    embed_dim: PositiveInt = 128
    """Of the vectors that are compared."""
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    loss: Literal["infonce", "sigmoid"] = "infonce"
    """Softmax over the batch (arXiv 2103.00020) or one decision a pair (arXiv 2303.15343)."""
    prompts: tuple[str, ...] = Field(default=("{}",), min_length=1)
    """Training puts each caption into one of these, drawn anew each time, so that classes are
    also found by prompts that no caption has; {} stands for the caption. The first validates."""
    jitter: Fraction = 0.0
    """How much images are moved, turned, scaled and recolored in training: for few images."""
    pooled_only: bool = False
    """As a text encoder it gives its one vector alone, without the token states."""

    @model_validator(mode="after")
    def _prompts_have_a_place(self) -> Self:
        for prompt in self.prompts:
            if prompt.count("{}") != 1:
                raise ValueError(f"prompts: {prompt!r} must have one {{}} for the caption")
        return self

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        step = self.image.divisor
        if any(side < 1 or side % step for side in self.image_size):
            height, width = self.image_size
            raise ValueError(
                f"image_size {height} x {width} is not divisible by {step} (the image tower's "
                f"levels or patch_size)"
            )
        return self
