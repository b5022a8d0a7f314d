"""Weights in eight bits, for models that are shipped: a quarter of float32.

Each row of a matrix, each output channel of a kernel, has a scale of its own: its largest absolute
value is 127. Rounding moves a weight by at most half a step, 1/254 of that largest one.
"""

import torch
from torch import Tensor

SCALE = ".scale"  # what the name of a tensor's scales ends in
SMALLEST = 1024  # numbers; smaller tensors, and vectors, stay in half precision
STEPS = 127.0


def quantized(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return matrices and kernels as int8 with float32 scales, everything else as float16."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            packed[name] = tensor
        elif tensor.ndim < 2 or tensor.numel() < SMALLEST:
            packed[name] = tensor.half()
        else:
            scale = _rows(tensor.float()).abs().amax(1).clamp(min=1e-12) / STEPS
            shaped = scale.reshape(-1, *[1] * (tensor.ndim - 1))
            packed[name] = (tensor.float() / shaped).round().to(torch.int8)
            packed[name + SCALE] = scale
    return packed


def dequantized(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``quantized`` packed as float32 again; other tensors as they are."""
    unpacked: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        owner = tensors.get(name.removesuffix(SCALE)) if name.endswith(SCALE) else None
        if owner is not None and owner.dtype == torch.int8:
            continue
        scale = tensors.get(name + SCALE)
        if tensor.dtype == torch.int8 and scale is not None:
            tensor = tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
        unpacked[name] = tensor
    return unpacked


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)
