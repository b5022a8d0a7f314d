"""The shape of a network."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from minimagen.checked import Config, PositiveInt

CodeVectorKind = Literal["table", "channels", "both"]


class UNetConfig(Config):
    """One U-Net: the base network or Imagen's Efficient U-Net (``memory_efficient``)."""

    dim: PositiveInt
    """Channels of the first level; level i has dim * dim_mults[i]."""
    dim_mults: tuple[PositiveInt, ...] = Field(min_length=1)
    """Channels of each level over ``dim``; each level halves the sides."""
    channels: PositiveInt = 3
    """Of what it denoises: 3 of pixels, those of latents."""
    num_resnet_blocks: PositiveInt | tuple[PositiveInt, ...] = 1
    """Residual blocks of each level."""
    layer_attns: bool | tuple[bool, ...] = False
    """Levels with self-attention."""
    layer_cross_attns: bool | tuple[bool, ...] = True
    """Levels with attention to the text; keys join the self-attention's where both are on."""
    attend_at_middle: bool = True
    """Self-attention at the lowest resolution."""
    attn_heads: PositiveInt = 8
    """Heads of every attention."""
    attn_head_dim: PositiveInt = 64
    """Channels of a head."""
    cond_dim: PositiveInt | None = None
    """Width of the text tokens inside the network; ``dim`` by default."""
    memory_efficient: bool = False
    """Efficient U-Net: down-sample first in each level, skips scaled by 1/sqrt 2."""
    patch_size: PositiveInt = 1
    """Side of the pixel-unshuffle stem: the network works on (h / p) x (w / p)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the channels of residual blocks that training drops."""
    norm_group_channels: PositiveInt = 8
    """Least channels of a group of a group normalization; a CPU is fast from 16 on."""

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        for name in ("num_resnet_blocks", "layer_attns", "layer_cross_attns"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.dim_mults):
                raise ValueError(
                    f"{name} has {len(value)} entries, dim_mults has {len(self.dim_mults)}: "
                    "give one entry per level, or a single value"
                )
        return self

    def per_level(self, name: str) -> tuple[Any, ...]:
        """Return field ``name`` as one value per level."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * len(self.dim_mults)

    @property
    def divisor(self) -> int:
        """Return what the sides of an image must be divisible by."""
        halvings = len(self.dim_mults) - (0 if self.memory_efficient else 1)
        return self.patch_size * 2**halvings


class AttentionConfig(Config):
    """A network with ``heads`` that divide its width ``dim``."""

    dim: PositiveInt
    """Width of the network."""
    heads: PositiveInt
    """Heads of every attention; they divide ``dim``."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        return self


class GPTConfig(AttentionConfig):
    """A GPT over image tokens."""

    dim: PositiveInt = 256
    """Width of the network."""
    depth: PositiveInt = 6
    """Transformer layers."""
    heads: PositiveInt = 4
    """Heads of every attention; they divide ``dim``."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the channels that training drops."""
    embedding: CodeVectorKind = "table"
    """Vectors of the codes that are read. table: each code has its own; channels: the sum of a
    vector for the value of each channel of fsq; both: these two added."""
    head: CodeVectorKind = "table"
    """Vectors of the codes that are predicted, likewise."""
