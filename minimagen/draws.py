"""Every random number of the project, as a function of what it is for.

Nothing here keeps state. In training a number depends on (seed, stage, step, name, index in the
GLOBAL batch); in sampling on (the image's own seed, stage, name). So a resumed run needs no
stored generator, gradient accumulation and batch splits change nothing, and an image does not
depend on its batch. All numbers come from CPU generators, so every device sees the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from operator import index
from random import Random
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def derive_seed(*key: int | str) -> int:
    """Return a 63-bit seed that depends on every part of ``key`` and on nothing else."""
    exact = tuple(part if isinstance(part, str) else index(part) for part in key)  # NumPy's too
    digest = hashlib.blake2b(repr(exact).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(*key: int | str) -> Random:
    """Return a fresh generator of Python's, for draws that need no torch, seeded by ``key``."""
    return Random(" ".join(map(str, key)))


def generator(*key: int | str) -> torch.Generator:
    """Return a fresh CPU generator of torch's, seeded by ``key``."""
    import torch

    return torch.Generator("cpu").manual_seed(derive_seed(*key))


@dataclass(frozen=True)
class Draws:
    """The draws of one optimizer step of one learner, for the rows ``start ... start + size``.

    Args:
        seed: The run's seed.
        learner: The stage's index in the cascade, or the name of another learner.
        step: The optimizer step, from 0.
        batch_size: Rows of the global batch.
        start: First row of this micro-batch in the global batch.
        size: Rows of this micro-batch; all of them by default.
        progress: The share of the training that is done, in [0, 1], for objectives that change on
            the way; no draw depends on it.
    """

    seed: int
    learner: int | str
    step: int
    batch_size: int
    start: int = 0
    size: int | None = None
    progress: float = 1.0

    @property
    def rows(self) -> range:
        """Return the rows of the global batch that these draws are for."""
        size = self.batch_size - self.start if self.size is None else self.size
        return range(self.start, self.start + size)

    def slice(self, start: int, size: int) -> Self:
        """Return the draws of ``size`` rows from row ``start`` of the global batch."""
        return replace(self, start=start, size=size)

    def _generator(self, name: str, *key: int) -> torch.Generator:
        return generator(self.seed, self.learner, self.step, name, *key)

    def uniform(self, name: str) -> Tensor:
        """Return independent uniform numbers in [0, 1), float64 [size]."""
        import torch

        numbers = torch.rand(
            self.batch_size, generator=self._generator(name), dtype=torch.float64, device="cpu"
        )
        return numbers[self.rows.start : self.rows.stop]

    def stratified(self, name: str) -> Tensor:
        """Return uniform numbers in [0, 1), one in each of ``batch_size`` equal strata, shuffled.

        Each row is uniform by itself; together the rows of the global batch cover [0, 1) evenly,
        which lowers the variance of the loss (VDM, arXiv 2107.00630, appendix I.1). float64 [size].
        """
        import torch

        random = self._generator(name)
        strata = torch.randperm(self.batch_size, generator=random, device="cpu")
        jitter = torch.rand(self.batch_size, generator=random, dtype=torch.float64, device="cpu")
        numbers = (strata + jitter) / self.batch_size
        return numbers[self.rows.start : self.rows.stop]

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, float32 [size, *shape], each row from its own seed."""
        import torch

        return torch.stack([_normal(shape, self._generator(name, row)) for row in self.rows])

    def network_seed(self) -> int:
        """Return the seed of the network's own randomness (dropout) in this micro-batch."""
        return derive_seed(self.seed, self.learner, self.step, "network", self.start)


class Noise(Protocol):
    """The standard normal numbers that one stage samples a batch of images with."""

    def __call__(self, name: int | str, shape: Sequence[int]) -> Tensor:
        """Return the numbers called ``name``, float32 [b, *shape] on the CPU."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """Noise of which row i depends on ``seeds[i]``, ``stage`` and the name only.

    Args:
        seeds: One per image.
        stage: The stage's index in the cascade.
    """

    seeds: Sequence[int]
    stage: int

    def __call__(self, name: int | str, shape: Sequence[int]) -> Tensor:
        """Return the numbers called ``name``, float32 [b, *shape] on the CPU."""
        import torch

        keys = [generator(seed, self.stage, name) for seed in self.seeds]
        return torch.stack([_normal(shape, key) for key in keys])


def _normal(shape: Sequence[int], source: torch.Generator) -> Tensor:
    """Return standard normal numbers, whatever torch's defaults are."""
    import torch

    return torch.randn(*shape, generator=source, dtype=torch.float32, device="cpu")


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Let weights that are made inside the ``with`` depend on a key alone: float32, on the CPU.

    Torch's generator of the CPU is as before afterwards; those of GPUs are not touched.
    """
    import torch

    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    outlines = torch.get_default_device().type == "meta"  # without weights
    try:
        torch.default_generator.manual_seed(derive_seed(*key))
        torch.set_default_dtype(torch.float32)
        with nullcontext() if outlines else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(state)
