"""The contract of everything that the trainer trains: stages, autoencoders, CLIP."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from minimagen.config.sizes import Size
from minimagen.draws import Draws
from minimagen.images import Batch


class ParameterGroups(NamedTuple):
    """The trained parameters of a learner, by the kind of optimizer that suits them."""

    hidden: list[nn.Parameter]
    """Matrices and kernels that map features to features: Muon may train them."""
    rest: list[nn.Parameter]
    """All others: AdamW trains them."""


class Learner(nn.Module, ABC):
    """A module with a loss. All randomness of the loss comes from the draws it is given.

    Attributes:
        name: Names its files and its draws, for example "unet_0".
        per_example: Whether the loss of an example depends on that example alone. A contrastive
            loss needs the whole batch, so its batches cannot be cut into micro-batches.
        image_sizes: (height, width) of the images that ``loss`` takes: of ``Batch.images`` and,
            where there is a second one, of ``Batch.low_res``.
    """

    name: str
    per_example: bool = True
    image_sizes: tuple[Size, ...]

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the training loss of every example, float32 [b]."""

    def parameter_groups(self) -> ParameterGroups:
        """Return the parameters to train; by default none of them is for Muon."""
        return ParameterGroups([], [p for p in self.parameters() if p.requires_grad])

    def shardable(self) -> Sequence[nn.Module]:
        """Return the parts that FSDP may gather one at a time; by default the whole only."""
        return ()

    def compile_blocks(self, on: bool) -> None:
        """Turn the compilation of the repeated parts on or off; by default there is none."""

    def recompute_activations(self, on: bool) -> None:
        """Turn activation checkpointing on or off; by default there is none."""
