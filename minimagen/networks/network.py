"""What a diffusion stage needs of its network, whoever made it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, Self

from torch import Tensor, nn


class TextStates(Protocol):
    """What a network makes of captions, once per sampling run."""

    def rows(self, count: int) -> Self:
        """Return that of the first ``count`` rows."""
        ...


class DenoisingNetwork(nn.Module, ABC):
    """Called with (x_t [b c h w], log-SNR [b], ``encode_text``'s result), and for super-resolution
    with the noised images [b c h w] and their log-SNR [b] too.
    """

    @abstractmethod
    def encode_text(self, embeds: Tensor, mask: Tensor, drop: Tensor) -> TextStates:
        """Return all that the network uses of captions [b n d]; where ``drop`` [b], of none."""

    @abstractmethod
    def hidden_matrices(self) -> list[nn.Parameter]:
        """Return the matrices that map features to features, which Muon is for."""

    @abstractmethod
    def shardable(self) -> Sequence[nn.Module]:
        """Return the parts that FSDP may gather one at a time."""

    @abstractmethod
    def recompute_activations(self, on: bool = True) -> None:
        """Turn activation checkpointing on or off."""

    @abstractmethod
    def compile_blocks(self, on: bool = True) -> None:
        """Turn the compilation of blocks on or off."""
