"""``--DRY_RUN``: a table of what a cascade costs, without weights, images or a device."""

import math
import textwrap

from minimagen.config import ImagenConfig, TrainingConfig
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.config.sizes import scaled
from minimagen.networks.cost import Cost, measure, on_meta, states_bytes
from minimagen.storage.directory import Parameters
from minimagen.text.build import build

PAPER_SIZES = ((64, 64), (256, 256), (1024, 1024))
PAPER_PARAMETERS = (2.0e9, 600e6, 400e6)  # Imagen, arXiv 2205.11487

NOTES = (
    "Memory is for float32, from shapes alone: no allocator, no workspace; bf16 autocast about "
    "halves the activations. Training keeps weights, gradients, moments (AdamW two; Muon one of "
    "the hidden matrices, and AdamW's two of the rest) and the weights' average (EMA), and what "
    "the backward pass needs of a micro-batch (the stage's batch size / ACCUM_ITER images); "
    "attention matrices are counted, fused kernels keep none.",
    "A multiplication and an addition are 2 FLOPs. The captions' keys and values are made once per "
    "image. Guidance (a scale other than 1) runs the network with and without the caption, so "
    "it doubles the FLOPs of a step; heun runs it twice in each step but the last. A training step "
    "costs about 3 forward passes. The frozen T5 is not counted, nor is a teacher (--DISTILL).",
)
PAPER_NOTE = "How this code differs from the paper: parameters/imagen_64_256_1024/README.md."


def report(parameters: Parameters) -> str:
    """Return a table of every stage's parameters, memory and FLOPs, with notes.

    Needs neither the text encoder's weights nor, for a known T5 name, a network.
    """
    config = parameters.imagen
    training = parameters.training.for_stages(len(config.stages))
    tokens = config.max_num_words
    width = build(config.text_encoder_name, tokens).embed_dim
    low_res_sizes = (None, *config.image_sizes[:-1])
    costs = [
        measure(on_meta(stage.unet, width, low is not None), stage, size, low, (tokens, width))
        for stage, size, low in zip(config.stages, config.image_sizes, low_res_sizes, strict=True)
    ]
    rows = [["", *(f"stage {i}" for i in range(len(costs)))]]
    rows += [["image", *(f"{h} x {w}" for h, w in config.image_sizes)]]
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
        notes.append(PAPER_NOTE)
    rows += _memory_rows(costs, training) + _flop_rows(costs, parameters)
    text = f"text encoder: {config.text_encoder_name}, {width} channels, frozen"
    return "\n".join([_table(rows), "", text, *(textwrap.fill(note, 100) for note in notes)])


def _trained_on(config: ImagenConfig, i: int) -> str:
    low = config.image_sizes[i - 1] if i else None
    size, _ = config.stages[i].trained_on(config.image_sizes[i], low)
    return f"{size[0]} x {size[1]}"


def _memory_rows(costs: list[Cost], training: TrainingConfig) -> list[list[str]]:
    optimizers = [stage.optimizer for stage in training.stages]
    images = [training.batch_size_of(i) // training.accum_iter for i in range(len(costs))]
    states = [states_bytes(c, name) for c, name in zip(costs, optimizers, strict=True)]
    activations = [n * c.activations for n, c in zip(images, costs, strict=True)]
    return [
        ["memory to train", *(_bytes(s + a) for s, a in zip(states, activations, strict=True))],
        ["  optimizer", *optimizers],
        ["  weights, gradients, moments, EMA", *(_bytes(s) for s in states)],
        ["  images in a micro-batch", *map(str, images)],
        ["  activations of a micro-batch", *(_bytes(a) for a in activations)],
        ["  activations of one image", *(_bytes(c.activations) for c in costs)],
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
        ["FLOPs of one image, forward", *(_flops(c.flops) for c in costs)],
        *(crops if any(stage.crop for stage in parameters.imagen.stages) else ()),
        ["  its text, once", *(_flops(c.text_flops) for c in costs)],
        ["  sampler, steps", *(f"{s.sampler}, {s.timesteps}" for _, s in pairs)],
        ["  guidance", *(f"{s.guidance_scale:g}" for _, s in pairs)],
        ["FLOPs to sample one image", *(_flops(total) for total in totals)],
    ]


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
