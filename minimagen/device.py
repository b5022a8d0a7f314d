"""Where the numbers are computed, and how precisely."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, nn

from minimagen.checked import Precision
from minimagen.errors import UserError


class Movable(Protocol):
    """What can be on one device or another: a network, a text encoder."""

    def to(self, device: torch.device, /) -> Any:
        """Go there."""
        ...


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``, or itself; ``auto`` takes cuda, then mps, then cpu.

    Raises:
        UserError: If the device does not exist here.
    """
    names, name = _available(), str(name)
    if name == "auto":
        return torch.device(names[0])
    if name not in names:
        raise UserError(f"`device` {name!r} is not available here; use auto, {', '.join(names)}")
    return torch.device(name)


def seed_device(device: torch.device, seed: int) -> None:
    """Seed torch's own generators of the CPU and of a device, and of no other GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _available() -> list[str]:
    """Return the names of the devices that exist here, the fastest kind first."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    return [
        name
        for kind, count in counts.items()
        if count
        for name in (kind, *(f"{kind}:{i}" for i in range(count)))
    ]


def has_native_bf16(device: torch.device) -> bool:
    """Return whether ``device`` multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def widest_float(device: torch.device) -> torch.dtype:
    """Return the dtype of long sums on ``device``: float64, float32 where it has none (Apple's)."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextmanager
def visiting(module: nn.Module, device: torch.device | None) -> Iterator[torch.device]:
    """Let ``module`` sample inside the ``with``: on ``device``, if one is given, without dropout.

    Yields where it is.
    """
    home, modes = next(module.parameters()).device, [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with nullcontext() if device is None else lent(module, device, home):
            yield device or home
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def lent(part: Movable, device: torch.device | None, home: torch.device) -> Iterator[None]:
    """Let ``part`` be on ``device`` inside the ``with`` and at ``home`` afterwards.

    Where no device is given, it is at ``home`` inside too.
    """
    try:
        with torch.inference_mode(False):  # what moves in that mode could not be trained any more
            part.to(device or home)
        yield
    finally:
        if device is not None:  # also where there was no memory for all of it
            with torch.inference_mode(False):
                part.to(home)


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return ``x`` on ``device``, on CUDA without waiting for the copy.

    On Apple's GPUs a copy that does not wait may read what is freed already (pytorch 139550).
    """
    return x.to(device, dtype or x.dtype, non_blocking=device.type == "cuda")


def device_name(device: torch.device) -> str:
    """Return what people call ``device``: the name of a GPU, or cpu with the number of threads."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else str(device)


def resolved_precision(device: torch.device, precision: str) -> str:
    """Return ``fp32`` or ``bf16``: what ``precision`` means on ``device``."""
    if precision == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    return precision


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[object]:
    """Return the context that networks run in: bf16 autocast, or nothing (fp32).

    ``auto`` is bf16 where the device has it natively. Weights stay in fp32 in either case.

    Raises:
        UserError: If there is no such precision.
    """
    if precision not in get_args(Precision):
        valid = ", ".join(get_args(Precision))
        raise UserError(f"precision {precision!r} is not one of {valid}")
    if resolved_precision(device, precision) == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def exactly(device: torch.device | str) -> AbstractContextManager[object]:
    """Return the context of what must not be rounded to bfloat16, inside of ``autocast`` too."""
    return torch.autocast(torch.device(device).type, enabled=False)
