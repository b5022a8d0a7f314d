"""What a network costs: parameters, memory and FLOPs, from shapes alone.

Networks are built and run on torch's meta device, where tensors have shapes but no numbers.
"""

import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from minimagen.config import DiffusionConfig, Size, UNetConfig
from minimagen.networks.unet import Block, UNet, count_parameters

T = TypeVar("T")

TRAINING_COPIES = 5  # float32 each: weight, gradient, AdamW's two moments, average (EMA)
# Muon keeps one moment, of the hidden matrices, where AdamW keeps two.


class Cost(NamedTuple):
    """Memory in bytes, FLOPs for one image."""

    parameters: int
    hidden: int
    """Those in hidden matrices, which Muon trains."""
    activations: int
    """Kept for the backward pass of one image, or of its crop where training crops."""
    recomputed: int
    """The same with activation checkpointing: the blocks' inputs and the largest block's own."""
    sampling: int
    """Largest sum of live tensors while one image is sampled, weights not included."""
    text_flops: int
    """Keys and values of the caption, once per image."""
    flops: int
    """One forward pass of the network without guidance."""
    training_flops: int
    """The same at the size that training sees: the crop."""


def on_meta(config: UNetConfig, text_embed_dim: int, lowres_cond: bool = False) -> UNet:
    """Return a network on the meta device."""
    with torch.device("meta"):
        return UNet(config, text_embed_dim, lowres_cond)


@lru_cache
def measure(
    config: DiffusionConfig, size: Size, low_res_size: Size | None, text_shape: tuple[int, int]
) -> Cost:
    """Run the network of a stage forward at ``size`` and count.

    Args:
        config: The network, whether training crops, and whether sampling is guided.
        size: (height, width) of its images, or of their latents.
        low_res_size: That of the stage before; None for the first stage.
        text_shape: (tokens, channels) of a caption's embeddings.
    """
    network = on_meta(config.unet, text_shape[1], lowres_cond=low_res_size is not None)
    trained_on = config.trained_on(size, low_res_size)
    text, inputs = _inputs(network, *trained_on, text_shape, rows=1)
    _, text_flops = _counted(lambda: network.encode_text(*text))
    (activations, largest), flops = _counted(lambda: _kept(network, text, inputs))
    training_flops = flops - text_flops
    network.recompute_activations()
    block_inputs, _ = _kept(network, text, inputs)
    if trained_on != (size, low_res_size):
        whole = _inputs(network, size, low_res_size, text_shape, rows=1)
        _, flops = _counted(lambda: _forward(network, *whole))
    rows = 1 if config.sampling.guidance_scale == 1.0 else 2
    text, inputs = _inputs(network, size, low_res_size, text_shape, rows)
    with torch.no_grad(), _LiveBytes(network) as live:
        _forward(network, text, inputs)
    hidden = sum(p.numel() for p in network.hidden_matrices())
    return Cost(
        count_parameters(network),
        hidden,
        activations,
        block_inputs + largest,
        live.peak,
        text_flops,
        flops - text_flops,
        training_flops,
    )


def _kept(network: UNet, text: Any, inputs: Any) -> tuple[int, int]:
    """Return the bytes that autograd keeps, and those of the block with most."""
    saved, largest, before = _SavedForBackward(network), 0, 0

    def enter(*_: Any) -> None:
        nonlocal before
        before = saved.bytes

    def leave(*_: Any) -> None:
        nonlocal largest
        largest = max(largest, saved.bytes - before)

    blocks = [module for module in network.modules() if isinstance(module, Block)]
    hooks = [block.register_forward_pre_hook(enter) for block in blocks]
    hooks += [block.register_forward_hook(leave) for block in blocks]
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        _forward(network, text, inputs)
    for hook in hooks:
        hook.remove()
    return saved.bytes, largest


def _counted(run: Callable[[], T]) -> tuple[T, int]:
    """Return what ``run`` returns, and its FLOPs."""
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


def _forward(network: UNet, text: Any, inputs: Any) -> Tensor:
    return network(*inputs[:2], network.encode_text(*text), *inputs[2:])


def _inputs(
    network: UNet,
    size: Size,
    low_res_size: Size | None,
    text_shape: tuple[int, int],
    rows: int,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, ...]]:
    """Return the arguments of ``encode_text``, and those of ``forward`` without the context."""
    channels = network.config.channels
    with torch.device("meta"):
        flags = torch.empty(rows, text_shape[0], dtype=torch.bool)
        text = (torch.empty(rows, *text_shape), flags, flags[:, 0])
        x, log_snr = torch.empty(rows, channels, *size), torch.empty(rows)
        if low_res_size is None:
            return text, (x, log_snr)
        return text, (x, log_snr, x, log_snr)  # the low-resolution images come enlarged


class _SavedForBackward:
    """Every storage that autograd keeps, once; the weights excepted."""

    def __init__(self, network: nn.Module) -> None:
        self._own = {_storage(p) for p in network.parameters()}
        self._kept: dict[int, Tensor] = {}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in self._own and key not in self._kept:
            self._kept[key] = tensor  # holding it keeps its storage's id unique
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


class _LiveBytes(TorchDispatchMode):
    """Follows the sum of the live storages, the weights excepted."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._own = {_storage(p) for p in network.parameters()}
        self._users: dict[int, int] = {}
        self._live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _storage(tensor) not in self._own:
                self._add(tensor)
        self.peak = max(self.peak, self._live)
        return result

    def _add(self, tensor: Tensor) -> None:
        key, size = _storage(tensor), tensor.untyped_storage().nbytes()
        if key not in self._users:
            self._live += size
        self._users[key] = self._users.get(key, 0) + 1
        weakref.finalize(tensor, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._live -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def states_bytes(cost: Cost, optimizer: str) -> int:
    """Return the bytes of a stage's weights, gradients, moments and average while it trains."""
    copies = TRAINING_COPIES * cost.parameters
    return 4 * (copies - cost.hidden if optimizer == "muon" else copies)
