"""The noise of the next step, drawn by threads while a GPU computes this one."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from minimagen.draws import Draws

THREADS = 4  # one for each tensor of noise; torch draws without holding Python's lock
Key = tuple[int, int, int | None, str, tuple[int, ...]]


class NoiseAhead:
    """Draws tensors of noise one step before they are asked for.

    A step asks for the same names and shapes as the step before, nearly always; what was not
    foreseen is drawn when it is asked for. A number depends on its key alone, so none changes.

    Args:
        device: Where the noise is used. For a GPU it is put into page-locked memory, from which
            it is copied without waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._pins = device.type == "cuda"
        set_device = (torch.cuda.set_device, (device,)) if self._pins else (None, ())
        self._threads = ThreadPoolExecutor(THREADS, "noise", *set_device)
        self._coming: dict[Key, Future[Tensor]] = {}

    def get(self, draws: Draws, name: str, shape: Sequence[int]) -> Tensor:
        """Return the numbers called ``name``, as ``Draws.normal``; those of the next step begin."""
        shape, following = tuple(shape), dataclasses.replace(draws, step=draws.step + 1)
        found = self._coming.pop(_key(draws, name, shape), None)
        self._coming = {key: each for key, each in self._coming.items() if key[0] >= draws.step}
        task = self._threads.submit(self._drawn, following, name, shape)
        self._coming[_key(following, name, shape)] = task
        return self._drawn(draws, name, shape) if found is None else found.result()

    def _drawn(self, draws: Draws, name: str, shape: Sequence[int]) -> Tensor:
        numbers = Draws.normal(draws, name, shape)
        return numbers.pin_memory() if self._pins else numbers


def _key(draws: Draws, name: str, shape: tuple[int, ...]) -> Key:
    return draws.step, draws.start, draws.size, name, shape


@dataclass(frozen=True)
class DrawsAhead(Draws):
    """Draws of a step whose noise may have been drawn during the step before."""

    _: KW_ONLY
    ahead: NoiseAhead

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return what ``Draws.normal`` returns."""
        return self.ahead.get(self, name, shape)
