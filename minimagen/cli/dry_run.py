"""``--DRY_RUN``: a table of what a cascade costs, without images or a device.

No weights are loaded but those of an autoencoder that is named by its place.
"""

import math
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

import torch

from minimagen.autoencoders.build import load
from minimagen.autoencoders.files import on_meta_of
from minimagen.cli.table import table
from minimagen.config import (
    DiffusersConfig,
    DiffusionConfig,
    ImagenConfig,
    Size,
    TokenConfig,
    TrainingConfig,
)
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.config.sizes import scaled
from minimagen.imagen import Imagen
from minimagen.networks.cost import TRAINING_COPIES, Cost, measure, states_bytes
from minimagen.networks.diffusers import build_unet
from minimagen.networks.unet import count_parameters
from minimagen.storage.directory import Parameters
from minimagen.text.build import build, build_clip
from minimagen.text.names import DIFFUSERS, LABELS
from minimagen.text.pipeline import PipelineEncoder

PAPER_SIZES = ((64, 64), (256, 256), (1024, 1024))
PAPER_PARAMETERS = (2.0e9, 600e6, 400e6)  # Imagen, arXiv 2205.11487

NOTES = (
    "Memory is that of one rank, from shapes alone: no allocator, no workspace. Training keeps "
    "weights, gradients, moments (AdamW two; Muon one of the hidden matrices, and AdamW's two of "
    "the rest) and the weights' average (EMA), always in float32, and what the backward pass needs "
    "of a micro-batch (the stage's batch size / ACCUM_ITER / ranks); bf16 autocast about halves "
    "that. FSDP divides all but the activations among the ranks; the weights of the block that "
    "computes, gathered, are not counted. ACTIVATION_CHECKPOINTING keeps the blocks' inputs and, "
    "of one block at a time, everything. Attention matrices are counted, fused kernels keep none.",
    "A multiplication and an addition are 2 FLOPs. The captions' keys and values are made once per "
    "image. Guidance (a scale other than 1) runs the network with and without the caption, so "
    "it doubles the FLOPs of a step; heun runs it twice in each step but the last. A training step "
    "costs about 3 forward passes. Not counted are the text encoder and an "
    "autoencoder, which are frozen, and a teacher (--DISTILL).",
)
PAPER_NOTE = "How this code differs from the paper: parameters/imagen_64_256_1024/README.md."


class Ranks(NamedTuple):
    """Those that are to train together."""

    world: int = 1
    sharded: bool = False


ONE_RANK = Ranks()
DIGITS = tuple("0123456789")


def report(parameters: Parameters, ranks: Ranks = ONE_RANK) -> str:
    """Return a table of every stage's parameters, memory and FLOPs, with notes.

    Needs neither the text encoder's weights nor, for a known T5 name, a network.
    """
    config = parameters.imagen
    training = parameters.training.for_learners(len(config.learner_names))
    if config.text_encoder_name == LABELS and not config.labels:
        config = config.replace(labels=DIGITS)  # as many as the data has: that is not read here
    with torch.device("meta"):
        clip = build_clip(config, 0)
    name, most = config.text_encoder_name, config.max_num_words
    width = build(name, most, config.labels, clip).embed_dim
    parameters = parameters._replace(training=training)
    columns = [
        _column(parameters, i, stage, width, ranks)
        for i, stage in enumerate(config.stages)
        if not isinstance(stage, TokenConfig | DiffusersConfig)
    ]
    rows = [[cells[0][0], *(cell for _, cell in cells)] for cells in zip(*columns, strict=True)]
    notes = NOTES if config.image_sizes != PAPER_SIZES else (*NOTES, PAPER_NOTE)
    text = f"text encoder: {config.text_encoder_name}, {width} channels, frozen"
    costs = [table(rows, str.rjust), ""] * bool(rows)
    others = [*_others(config), *_pretrained(config)]
    return "\n".join([*costs, *others, text, *(textwrap.fill(n, 100) for n in notes)])


def _others(config: ImagenConfig) -> Iterator[str]:
    """Yield a line on each learner that is no diffusion stage."""
    tokens = sum(isinstance(stage, TokenConfig) for stage in config.stages)
    if config.first_stage + tokens == 0:
        return
    changes = {"stages": config.stages[:tokens], "image_sizes": config.image_sizes[:tokens]}
    with torch.device("meta"):
        learners = Imagen(config.replace(**changes)).learners
    for learner in learners:
        yield f"{learner.name}: {_millions(count_parameters(learner))} parameters"


def _pretrained(config: ImagenConfig) -> Iterator[str]:
    """Yield a line on each stage of diffusers', its autoencoder and its text encoder."""
    stages = [(i, s) for i, s in enumerate(config.stages) if isinstance(s, DiffusersConfig)]
    for i, stage in stages:
        with torch.device("meta"):
            count = count_parameters(build_unet(stage.unet, None))
        trained = _bytes(4 * TRAINING_COPIES * count)
        yield f"stage {i}, of diffusers': {_weights(count)}; to train {trained} and activations"
        if isinstance(stage.autoencoder, str):
            frozen = count_parameters(on_meta_of(stage.autoencoder))
            yield f"  its autoencoder, frozen: {_weights(frozen)}"
    if stages and config.text_encoder_name.startswith(DIFFUSERS):
        yield f"  its text encoder: {_weights(PipelineEncoder(config.text_encoder_name).size)}"


def _weights(count: int) -> str:
    """Return parameters, and what they need in either precision."""
    return (
        f"{_millions(count)} parameters, {_bytes(4 * count)} in fp32, {_bytes(2 * count)} in bf16"
    )


def _column(
    parameters: Parameters, i: int, stage: DiffusionConfig, text_width: int, ranks: Ranks
) -> list[tuple[str, str]]:
    """Return what stage ``i`` costs: the heading of every row, and the stage's cell in it."""
    config = parameters.imagen
    size, low_res_size = config.image_sizes[i], config.image_sizes[i - 1] if i else None
    factor = config.divisor_of(i) // stage.divisor  # of the cascade's own autoencoder
    if isinstance(stage.autoencoder, str):
        factor = load(stage.autoencoder).factor
    latent_size = (size[0] // factor, size[1] // factor)
    cost = measure(stage, latent_size, low_res_size, (config.max_num_words, text_width))
    rows = [("", f"stage {i}"), ("image", _size(size))]
    crops = any(other.crop for other in config.stages)
    if crops:
        rows += [("  in training", _size(stage.trained_on(size, low_res_size)[0]))]
    if parameters.data.aspect_buckets:
        full, buckets = config.image_sizes[-1], aspect_buckets(config)
        rows += [("  aspect bucket", _size(scaled(size, full, bucket))) for bucket in buckets]
    rows += [("parameters", _millions(cost.parameters))]
    if config.image_sizes == PAPER_SIZES:
        gap = cost.parameters / PAPER_PARAMETERS[i] - 1
        rows += [("  the paper", _millions(PAPER_PARAMETERS[i])), ("  gap", f"{100 * gap:+.0f} %")]
    rows += _memory_rows(parameters.training, config.first_stage + i, cost, ranks)
    return [*rows, *_flop_rows(stage, cost, crops)]


def _memory_rows(
    training: TrainingConfig, i: int, cost: Cost, ranks: Ranks
) -> list[tuple[str, str]]:
    optimizer = training.learners[i].optimizer
    shards = ranks.world if ranks.sharded else 1
    images = math.ceil(training.batch_size_of(i) / training.accum_iter / ranks.world)
    kept = cost.recomputed if training.activation_checkpointing else cost.activations
    states, weights = states_bytes(cost, optimizer) / shards, 4 * cost.parameters / shards
    of_ranks = [("ranks", f"{ranks.world} ({'FSDP' if ranks.sharded else 'DDP'})")]
    return [
        *(of_ranks if ranks.world > 1 else ()),
        ("memory to train, fp32", _bytes(states + images * kept)),
        ("memory to train, bf16", _bytes(states + images * kept / 2)),
        ("  optimizer", optimizer),
        ("  weights", _bytes(weights)),
        ("  gradients", _bytes(weights)),
        ("  moments", _bytes(states - 3 * weights)),
        ("  average (EMA)", _bytes(weights)),
        ("  images in a micro-batch", str(images)),
        ("  activations of a micro-batch", _bytes(images * kept)),
        ("  activations of one image", _bytes(kept)),
        ("memory to sample one", _bytes(4 * cost.parameters + cost.sampling)),
    ]


def _flop_rows(stage: DiffusionConfig, cost: Cost, crops: bool) -> list[tuple[str, str]]:
    sampling = stage.sampling
    runs = 2 * sampling.timesteps - 1 if sampling.sampler == "heun" else sampling.timesteps
    halves = 1 if sampling.guidance_scale == 1.0 else 2
    of_crop = [("  of its crop, in training", _flops(cost.training_flops))]
    return [
        ("FLOPs of one image, forward", _flops(cost.flops)),
        *(of_crop if crops else ()),
        ("  its text, once", _flops(cost.text_flops)),
        ("  sampler, steps", f"{sampling.sampler}, {sampling.timesteps}"),
        ("  guidance", f"{sampling.guidance_scale:g}"),
        ("FLOPs to sample one image", _flops(halves * (cost.text_flops + runs * cost.flops))),
    ]


def _size(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _millions(number: float) -> str:
    return f"{number / 1e6:.2f} M" if number < 1e8 else f"{number / 1e6:.0f} M"


def _bytes(number: float) -> str:
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _flops(number: float) -> str:
    return _scaled(number, 1000, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    power = min(int(math.log(max(number, 1), base)), len(units) - 1)
    return f"{number / base**power:.3g} {units[power]}"
