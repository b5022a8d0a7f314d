"""The contract of everything that the trainer trains: stages, autoencoders, CLIP."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
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

    @classmethod
    def of(cls, module: nn.Module, hidden: list[nn.Parameter]) -> "ParameterGroups":
        """Return ``hidden`` and all other parameters of ``module``."""
        taken = {id(parameter) for parameter in hidden}
        return cls(hidden, [p for p in module.parameters() if id(p) not in taken])


def weights_in(*modules: nn.Module) -> list[nn.Parameter]:
    """Return the matrices and kernels of all linear layers and convolutions in modules."""
    inner = (m for module in modules for m in module.modules())
    weights = (m.weight for m in inner if isinstance(m, nn.Linear | nn.Conv2d))
    return [weight for weight in weights if isinstance(weight, nn.Parameter)]


class CaptionReader(Protocol):
    """What encodes captions."""

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[n_i, d]`` tensor per caption, ``n_i >= 1``."""
        ...


class Unread:
    """Encodes nothing, for a learner that does not look at encodings."""

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one zero per caption."""
        return [torch.zeros(1, 1)] * len(captions)


class Learner(nn.Module, ABC):
    """A module with a loss. All randomness of the loss comes from the draws it is given.

    Attributes:
        name: Names its files and its draws, for example "unet_0".
        per_example: Whether the loss of an example depends on that example alone. A contrastive
            loss needs the whole batch, so its batches cannot be cut into micro-batches.
        image_sizes: (height, width) of the images that ``loss`` takes: of ``Batch.images`` and,
            where there is a second one, of ``Batch.low_res``.
        reads: Encodes the captions of its batches; None for the cascade's text encoder.
    """

    name: str
    per_example: bool = True
    image_sizes: tuple[Size, ...]
    reads: CaptionReader | None = None

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the training loss of every example, float32 [b]."""

    def prepared(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield training batches with what is made of each image once; by default as they are."""
        return batches

    def move_frozen(self, device: torch.device) -> None:
        """Move what it computes with but does not train; by default there is nothing."""

    def after_step(self) -> None:
        """Bring parameters back into their range after an optimizer step; by default all may be."""

    def shown(self, batch: Batch) -> list[Tensor]:
        """Return columns of images [b 3 h w] in model space for its sheets; by default none."""
        return []

    def conclude(self, seen: Iterable[Batch], held_out: Sequence[Batch]) -> list[str]:
        """Measure the trained learner; return lines for the user.

        Args:
            seen: Batches of the training, the same ones on all ranks; read only as far as needed.
            held_out: Those of the validation.
        """
        return []

    @property
    def entry_points(self) -> Sequence[str]:
        """Return the names of the methods that call its modules, for FSDP to gather weights."""
        return ("loss", "error_ratio")

    @property
    def concluded(self) -> bool:
        """Return whether it has measured itself, so that others depend on what it found."""
        return False

    def forget(self) -> None:
        """Forget what it has measured: it is to be trained further."""

    def error_ratio(self, batch: Batch, draws: Draws) -> float | None:
        """Return how wrong its estimates of ``batch`` are, beside the images that it enlarges.

        None for what enlarges none, or where nothing can be compared.
        """
        return None

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
