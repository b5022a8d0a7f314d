"""Where the numbers are computed, and how precisely."""

from contextlib import AbstractContextManager, nullcontext

import torch

from minimagen.errors import UserError


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes cuda, then mps, then cpu.

    Raises:
        UserError: If the device does not exist here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, here in available.items() if here), "cpu"))
    kind = name.partition(":")[0]
    if kind != "cpu" and not available.get(kind, False):
        raise UserError(f"DEVICE {name!r} is not available here; use auto, cpu, cuda or mps")
    return torch.device(name)


def has_native_bf16(device: torch.device) -> bool:
    """Tell whether ``device`` multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[object]:
    """Return the context that networks run in: bf16 autocast, or nothing (fp32).

    ``auto`` is bf16 where the device has it natively. Weights stay in fp32 in either case.
    """
    if precision == "bf16" or (precision == "auto" and has_native_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
