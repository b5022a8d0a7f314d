"""A stage and its frozen autoencoders, which may be the identity: what all such stages share."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from minimagen.autoencoders.autoencoder import Autoencoder
from minimagen.autoencoders.cache import in_blocks
from minimagen.config import Size
from minimagen.device import exactly
from minimagen.errors import UserError
from minimagen.stages.stage import Sampling, Stage

Coder = TypeVar("Coder", bound=Autoencoder)


class CodedStage(Stage[Sampling], Generic[Sampling, Coder]):
    """Learns what an autoencoder makes of images; the autoencoder itself stays as it is.

    Args:
        index: Its place in the cascade, from 0.
        name: Of its files.
        autoencoder: Between images and what is learned; moves with the stage, but is neither
            trained nor saved with it.
        low_res_autoencoder: What the low-resolution images of its training go through; they stay
            as they are by default.
    """

    def __init__(
        self,
        index: int,
        name: str,
        autoencoder: Coder,
        low_res_autoencoder: Autoencoder | None = None,
    ) -> None:
        super().__init__()
        self.index, self.name = index, name
        self._autoencoder = (autoencoder,)  # in tuples: no modules of this one
        self._of_low_res = () if low_res_autoencoder is None else (low_res_autoencoder,)

    @property
    def autoencoder(self) -> Coder:
        """Return what is between images and what is learned."""
        return self._autoencoder[0]

    @property
    def _frozen(self) -> Sequence[Autoencoder]:
        return [self.autoencoder, *self._of_low_res]

    @property
    def autoencoder_fingerprint(self) -> str | None:
        """Return which autoencoder it learns with; None where it learns with none."""
        return next(filter(None, (each.fingerprint for each in self._frozen)), None)

    @torch.no_grad()
    def as_sampled(self, low_res: Tensor) -> Tensor:
        """Return low-resolution images as the stage is given them in sampling.

        The autoencoder of the stage before has left its traces in these.
        """
        for autoencoder in self._of_low_res:
            with exactly(self.device):
                low_res = in_blocks(autoencoder.reconstruct, low_res).clamp(-1.0, 1.0)
        return low_res

    def divisible(self, size: Size, divisor: int) -> Size:
        """Return a size, if the autoencoder and a network that needs ``divisor`` can have it.

        Raises:
            UserError: A side is not divisible by what both need.
        """
        step = self.autoencoder.factor * divisor
        if any(side % step for side in size):
            raise UserError(
                f"stage {self.index}: {size[0]} x {size[1]} pixels is not divisible by {step}, "
                f"the autoencoder's factor ({self.autoencoder.factor}) times what the network needs"
            )
        return size

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return next(self.parameters()).device

    def move_frozen(self, device: torch.device) -> None:
        """Move what is frozen alone: FSDP moves the network itself."""
        for each in self._frozen:
            each.to(device)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move what is frozen too, wherever the network goes."""
        for each in self._frozen:
            each._apply(fn, recurse)
        return super()._apply(fn, recurse)
