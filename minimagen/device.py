"""Where the numbers are computed, and how precisely."""

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext

import torch

from minimagen.errors import UserError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes cuda, then mps, then cpu.

    Raises:
        UserError: If the device does not exist here.
    """
    names = _available()
    if name == "auto":
        return torch.device(names[0])
    if name not in names:
        raise UserError(f"DEVICE {name!r} is not available here; use auto, {', '.join(names)}")
    return torch.device(name)


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


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees, up to 512 MiB, for the step after it.

    Every step takes the same memory again. By default glibc gives large pieces back to the system
    at once, and each page of them has to be asked for and zeroed anew: a tenth of a small step on a
    CPU. Where there is no glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, 32 << 20)  # the largest that older ones take
        library.mallopt(TRIM_THRESHOLD, 512 << 20)
