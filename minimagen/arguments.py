"""Arguments of ``Imagen.sample``, checked: whatever is given, the result or one clear line."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from minimagen.checked import whole_number
from minimagen.device import resolve_device
from minimagen.errors import UserError

Callback = Callable[[int, int, int, Tensor], None]
"""Called after each step with (stage, step, number of steps, the estimate of the images)."""


@dataclass(frozen=True)
class Options:
    """How to sample, whatever the stages.

    Attributes:
        first: The stage to begin with; a later one than 0 enlarges ``low_res``.
        low_res: One image for each caption, [n 3 h w] in [-1, 1]; see ``first``.
        aspect_ratio: Width : height of the images; the nearest is taken that the cascade can sample
            with as many pixels. A cascade learns it with ``aspect_buckets``.
        batch_size: Images sampled at once.
        precision: ``auto``, ``fp32`` or ``bf16``.
        tokens: The captions are padded to at least so many tokens. The bits of an image depend on
            that, as on its batch's size.
        callback: Called after each step.
        device: Where to sample with one stage on the device at a time, each sent back after its
            turn, such as ``"cuda"``; by default the stages sample where they are.
    """

    first: int = 0
    low_res: Tensor | None = None
    aspect_ratio: float | None = None
    batch_size: int = 64
    precision: str = "auto"
    tokens: int = 0
    callback: Callback | None = None
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        whole_number("batch_size", self.batch_size, least=1)
        whole_number("first", self.first, least=0)
        whole_number("tokens", self.tokens, least=0)
        if (self.first > 0) != (self.low_res is not None):
            raise UserError(
                f"first is {self.first}: give low_res for a later stage than 0, and then only"
            )

    @property
    def visited(self) -> torch.device | None:
        """Return the device that one stage at a time is sent to, if there is one.

        Raises:
            UserError: There is no such device here.
        """
        return resolve_device(self.device) if isinstance(self.device, str) else self.device

    @classmethod
    def names(cls) -> set[str]:
        """Return the names of all options."""
        return {field.name for field in fields(cls)}


def captions_of(captions: Any) -> list[str]:
    """Return one caption or several as a list.

    Raises:
        UserError: It is neither a str nor a sequence of them.
    """
    if isinstance(captions, str):
        return [captions]
    if not isinstance(captions, Iterable):
        raise UserError(f"captions is {captions!r}; give a caption, or a list of captions")
    texts = list(captions)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"captions has {text!r}; every caption must be a str")
    return texts


def seeds_of(seed: Any, seeds: Any, count: int) -> list[int]:
    """Return a seed for each of ``count`` images: ``seed + i``, or ``seeds`` themselves.

    Raises:
        UserError: Both are given, there are not as many, or one is no whole number.
    """
    if seeds is None:
        first = secrets.randbits(32) if seed is None else whole_number("seed", seed, least=0)
        return list(range(first, first + count))
    if seed is not None:
        raise UserError("seed and seeds contradict each other; give one of them")
    if not isinstance(seeds, Iterable):
        raise UserError(f"seeds is {seeds!r}; give one whole number for each caption")
    own = [whole_number("seeds", each, least=0) for each in seeds]
    if len(own) != count:
        raise UserError(f"{len(own)} seeds for {count} captions; give one each")
    return own
