"""``--DRY_RUN``: what a cascade costs, told without weights, pictures or a device.

Every network is built and run on torch's meta device, where tensors have shapes but no numbers.
"""

import math
import textwrap
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from minimagen.config import ImagenConfig, StageConfig, TrainingConfig
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.config.sizes import scaled
from minimagen.networks.attention import Attention
from minimagen.networks.unet import UNet, count_parameters
from minimagen.storage.directory import Parameters
from minimagen.text.build import build as build_encoder

PAPER_SIZES = ((64, 64), (256, 256), (1024, 1024))
PAPER_PARAMETERS = (2.0e9, 600e6, 400e6)  # Imagen, arXiv 2205.11487
TRAINING_COPIES = 5  # float32 each: weight, gradient, AdamW's two moments, average (EMA)
# Muon keeps one moment, of the hidden matrices, where AdamW keeps two.

NOTES = (
    "Memory is for float32, from shapes alone: no allocator, no workspace; bf16 autocast about "
    "halves the activations. Training keeps weights, gradients, moments (AdamW two; Muon one of "
    "the hidden matrices, and AdamW's two of the rest) and the weights' average (EMA), and what "
    "the backward pass needs of a micro-batch (the stage's batch size / ACCUM_ITER pictures); "
    "attention matrices are counted, fused kernels keep none.",
    "A multiplication and an addition are 2 FLOPs. The captions' keys and values are made once per "
    "picture. Guidance (a scale other than 1) runs the network with and without the caption, so "
    "it doubles the FLOPs of a step; heun runs it twice in each step but the last. A training step "
    "costs about 3 forward passes. The frozen T5 is not counted, nor is a teacher (--DISTILL).",
)
PAPER_NOTE = (
    "The paper names its totals but gives no breakdown. Beside it, this code changes resolution by "
    "one convolution where the base of Imagen uses residual (BigGAN) up/down blocks; keys and "
    "values read the text at T5's own 4096 channels; the Efficient U-Net has two middle blocks "
    "({middle:.0f} M) that Imagen's has not. Of stage 2, {attention:.0f} M are text "
    "attention after each of the 16 lowest blocks and {pooling:.0f} M the pooled text; the "
    "rest, {rest:.0f} M, follows from the paper's channels and block counts, which are those of "
    "stage 1: by themselves they do not tell 600 M from 400 M."
)


class Cost(NamedTuple):
    """What one stage costs; memory in bytes, FLOPs for one picture."""

    parameters: int
    hidden: int
    """Those of them that are in hidden matrices, which Muon trains."""
    activations: int
    """Kept for the backward pass, one picture, or its crop where training cuts it."""
    sampling: int
    """Largest sum of live tensors while one picture is painted, weights not included."""
    text_flops: int
    """Captions' keys and values, once per picture."""
    flops: int
    """One forward pass of the network without guidance."""
    training_flops: int
    """The same of what training sees: the crop."""


def report(parameters: Parameters) -> str:
    """Return a table of every stage's parameters, memory and FLOPs, with notes.

    Needs neither the text encoder's weights nor, for a known T5 name, a network.
    """
    config = parameters.imagen
    training = parameters.training.for_stages(len(config.stages))
    width = build_encoder(config.text_encoder_name, config.max_num_words).embed_dim
    networks = build(parameters, width)
    costs = [
        measure(network, stage, size, low, (config.max_num_words, width))
        for network, size, low, stage in zip(
            networks,
            config.image_sizes,
            (None, *config.image_sizes[:-1]),
            config.stages,
            strict=True,
        )
    ]
    rows = [["", *(f"stage {i}" for i in range(len(costs)))]]
    rows += [["picture", *(f"{h} x {w}" for h, w in config.image_sizes)]]
    if any(stage.crop for stage in config.stages):
        rows += [["  in training", *(_trained_on(config, i) for i in range(len(costs)))]]
    if parameters.data.aspect_buckets:
        sizes, full = config.image_sizes, config.image_sizes[-1]
        for bucket in aspect_buckets(config):
            own = [scaled(size, full, bucket) for size in sizes]
            rows += [["  aspect bucket", *(f"{h} x {w}" for h, w in own)]]
    rows += [["parameters", *(_millions(c.parameters) for c in costs)]]
    notes = list(NOTES)
    if config.image_sizes == PAPER_SIZES:
        rows += [["  the paper", *(_millions(n) for n in PAPER_PARAMETERS)]]
        gaps = zip(costs, PAPER_PARAMETERS, strict=True)
        rows += [["  gap", *(f"{100 * (c.parameters / n - 1):+.0f} %" for c, n in gaps)]]
        notes.append(PAPER_NOTE.format(**_parts(networks[2])))
    rows += _memory_rows(costs, training) + _flop_rows(costs, parameters)
    text = f"text encoder: {config.text_encoder_name}, {width} channels, frozen"
    return "\n".join([_table(rows), "", text, *(textwrap.fill(note, 100) for note in notes)])


def _trained_on(config: ImagenConfig, i: int) -> str:
    low = config.image_sizes[i - 1] if i else None
    size, _ = config.stages[i].trained_on(config.image_sizes[i], low)
    return f"{size[0]} x {size[1]}"


def build(parameters: Parameters, text_embed_dim: int) -> list[UNet]:
    """Return every stage's network on the meta device."""
    with torch.device("meta"):
        return [
            UNet(stage.unet, text_embed_dim, lowres_cond=i > 0)
            for i, stage in enumerate(parameters.imagen.stages)
        ]


def measure(
    network: UNet,
    stage: StageConfig,
    size: tuple[int, int],
    low_res_size: tuple[int, int] | None,
    text_shape: tuple[int, int],
) -> Cost:
    """Run ``network`` (on the meta device) forward at ``size`` and count.

    Args:
        network: Of one stage.
        stage: Whether training cuts crops, and whether painting is guided.
        size: (height, width) of its pictures.
        low_res_size: That of the stage before; None for the first stage.
        text_shape: (tokens, channels) of a caption's embeddings.
    """
    text, inputs = _inputs(network, size, low_res_size, text_shape, rows=1)
    text_flops, flops = _forward_flops(network, text, inputs)
    text, inputs = _inputs(network, *stage.trained_on(size, low_res_size), text_shape, rows=1)
    _, training_flops = _forward_flops(network, text, inputs)
    saved = _SavedForBackward(network)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        network(*inputs[:2], network.encode_text(*text), *inputs[2:])
    rows = 1 if stage.sampling.guidance_scale == 1.0 else 2
    text, inputs = _inputs(network, size, low_res_size, text_shape, rows)
    with torch.no_grad(), _LiveBytes(network) as live:
        network(*inputs[:2], network.encode_text(*text), *inputs[2:])
    hidden = sum(p.numel() for p in network.hidden_matrices())
    parameters = count_parameters(network)
    return Cost(parameters, hidden, saved.bytes(), live.peak, text_flops, flops, training_flops)


def _forward_flops(network: UNet, text: Any, inputs: Any) -> tuple[int, int]:
    """Return the FLOPs of the text's keys and values, and of the rest of a forward pass."""
    with FlopCounterMode(display=False) as counter:
        context = network.encode_text(*text)
        text_flops = counter.get_total_flops()
        network(*inputs[:2], context, *inputs[2:])
    return text_flops, counter.get_total_flops() - text_flops


def _inputs(
    network: UNet,
    size: tuple[int, int],
    low_res_size: tuple[int, int] | None,
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
        return text, (x, log_snr, torch.empty(rows, channels, *low_res_size), log_snr)


class _SavedForBackward:
    """Every storage that autograd keeps, once; the network's own weights excepted."""

    def __init__(self, network: nn.Module) -> None:
        self._own = {_storage(p) for p in network.parameters()}
        self._kept: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self._own:
            self._kept[_storage(tensor)] = tensor  # holding it keeps its storage's id unique
        return tensor

    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())


class _LiveBytes(TorchDispatchMode):
    """Follows the sum of the storages that are alive, the network's own weights excepted."""

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


def _memory_rows(costs: list[Cost], training: TrainingConfig) -> list[list[str]]:
    optimizers = [stage.optimizer for stage in training.stages]
    pictures = [training.batch_size_of(i) // training.accum_iter for i in range(len(costs))]
    states = [states_bytes(c, name) for c, name in zip(costs, optimizers, strict=True)]
    activations = [n * c.activations for n, c in zip(pictures, costs, strict=True)]
    return [
        ["memory to train", *(_bytes(s + a) for s, a in zip(states, activations, strict=True))],
        ["  optimizer", *optimizers],
        ["  weights, gradients, moments, EMA", *(_bytes(s) for s in states)],
        ["  pictures in a micro-batch", *map(str, pictures)],
        ["  activations of a micro-batch", *(_bytes(a) for a in activations)],
        ["  activations of one picture", *(_bytes(c.activations) for c in costs)],
        ["memory to sample one", *(_bytes(4 * c.parameters + c.sampling) for c in costs)],
    ]


def _flop_rows(costs: list[Cost], parameters: Parameters) -> list[list[str]]:
    samplings = [stage.sampling for stage in parameters.imagen.stages]
    pairs = list(zip(costs, samplings, strict=True))
    halves = [1 if s.guidance_scale == 1.0 else 2 for s in samplings]
    runs = [s.timesteps * (2 if s.sampler == "heun" else 1) for s in samplings]
    runs = [n - (s.sampler == "heun") for n, s in zip(runs, samplings, strict=True)]
    totals = [h * (c.text_flops + n * c.flops) for c, h, n in zip(costs, halves, runs, strict=True)]
    crops = [["  of its crop, in training", *(_flops(c.training_flops) for c in costs)]]
    return [
        ["FLOPs of one picture, forward", *(_flops(c.flops) for c in costs)],
        *(crops if any(stage.crop for stage in parameters.imagen.stages) else ()),
        ["  its text, once", *(_flops(c.text_flops) for c in costs)],
        ["  sampler, steps", *(f"{s.sampler}, {s.timesteps}" for _, s in pairs)],
        ["  guidance", *(f"{s.guidance_scale:g}" for _, s in pairs)],
        ["FLOPs to paint one picture", *(_flops(total) for total in totals)],
    ]


def _parts(network: UNet) -> dict[str, float]:
    """Return millions of parameters by what they are for."""
    middle = count_parameters(network.mid_in) + count_parameters(network.mid_out)
    levels = [*network.downs.modules(), *network.ups.modules()]
    attention = sum(count_parameters(m) for m in levels if isinstance(m, Attention))
    pooling = count_parameters(network.text) + count_parameters(network.text_pool)
    rest = count_parameters(network) - middle - attention - pooling
    parts = {"middle": middle, "attention": attention, "pooling": pooling, "rest": rest}
    return {name: number / 1e6 for name, number in parts.items()}


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _millions(number: float) -> str:
    return f"{number / 1e6:.2f} M" if number < 1e8 else f"{number / 1e6:.0f} M"


def _bytes(number: float) -> str:
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _flops(number: float) -> str:
    return _scaled(number, 1000, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    power = min(int(math.log(max(number, 1), base)), len(units) - 1)
    return f"{number / base**power:.3g} {units[power]}"
