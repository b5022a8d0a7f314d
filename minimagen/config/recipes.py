"""Recipes: the cascade and its training that suit a side, a number of images and some minutes.

Measured on two CPU cores, on digits of 32 px and emoji of 64 px, for some minutes
(docs/decisions.md, "Real images"). The widths for longer runs and larger sides are extrapolated.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from minimagen.advice import FEW as FEW_IMAGES
from minimagen.config.data import DataConfig
from minimagen.config.networks import UNetConfig
from minimagen.config.stages import DiffusionConfig, LossConfig, SamplingConfig
from minimagen.config.training import LearnerTrainingConfig
from minimagen.errors import UserError

ONE_STAGE = 64  # px: images up to this side are made by one stage
TESTED = 64  # px: sides up to this are measured
TIME_SHIFT = 20.0
"""Of training times at 16 px, at the start; it grows with the side, as the noise that hides an
image does."""
FINE = 32  # px: images up to this side are learned to the end, and sampled with noise
TEXT_ENCODER = "minilm_mini"  # knows the words of people's captions
VALIDATED = 0.04  # of the images, at most 512: enough for a loss, few are lost for training
STEPS_PER_MINUTE = 200  # of 32 images at 32 px on two cores, about
WIDTHS = ((4.0, 32, 2.5e-3), (40.0, 48, 1.5e-3), (math.inf, 64, 1e-3))
"""Channels of the first level and learning rate for less than so many minutes: a wide network
learns more, later, and at a lower rate."""
GPU_STEPS_PER_MINUTE = 600  # of 256 images at 64 px on an H200, about
GPU_BATCH, GPU_BATCH_LARGE = 256, 128
"""Images of a batch on a GPU, of the first stage and of those that enlarge: at 64 px the host takes
96 ms for a step of 256, and 72 ms for one of 32. They need 4 GiB."""
MULTS = (1, 2, 4, 4)  # of the channels, level by level
GROUP = 16  # least channels of a group of a norm: with 8, a CPU's step takes a tenth longer
ATTENDED = 8  # tokens a side: levels of at most this attend to themselves and to the caption


@dataclass(frozen=True)
class Recipe:
    """What a recipe sets, and why.

    Attributes:
        image_sizes: Sides of the stages' images, px.
        stages: Their networks and objectives.
        training: How each is trained.
        train_valid_frac: The share of the images that is trained on.
        reasons: One line for each choice, and the parameter that makes another one.
    """

    image_sizes: tuple[int, ...]
    stages: tuple[DiffusionConfig, ...]
    training: tuple[LearnerTrainingConfig, ...]
    train_valid_frac: float
    reasons: tuple[tuple[str, str], ...] = field(default=())

    def values(self) -> Iterator[tuple[tuple[str, str], Any]]:
        """Yield (section, name) and value of each setting, as JSON has them."""
        yield ("imagen", "image_sizes"), list(self.image_sizes)
        yield ("imagen", "text_encoder_name"), TEXT_ENCODER
        yield ("imagen", "stages"), [stage.model_dump(mode="json") for stage in self.stages]
        yield ("training", "learners"), [each.model_dump(mode="json") for each in self.training]
        yield ("data", "train_valid_frac"), self.train_valid_frac


def recipe_for(side: int, images: int | None, minutes: float, gpu: bool = False) -> Recipe:
    """Return the recipe for square images of ``side`` px.

    Args:
        side: Of the final images: a multiple of 4, above 64 px of 16, above 128 px of 32.
        images: How many there are to train on; None where they are not counted.
        minutes: Of training, all stages together, on two CPU cores or a GPU.
        gpu: Whether it is a GPU: there the widest network learns most in any time.

    Raises:
        UserError: No network fits the side.
    """
    sizes = _sizes(side)
    dropout = _dropout(images)
    suited = [row[1:] for row in WIDTHS if minutes < row[0]]
    width, rate = suited[-1 if gpu else 0]
    ema = _ema_decay(minutes * (GPU_STEPS_PER_MINUTE if gpu else STEPS_PER_MINUTE))
    stages = [_base(sizes[0], width, dropout)]
    stages += [_super_resolution(size) for size in sizes[1:]]
    batch, large = (GPU_BATCH, GPU_BATCH_LARGE) if gpu else (None, 16)
    first = LearnerTrainingConfig(optim_lr=rate, ema_decay=ema, batch_size=batch, share=4.0)
    later = LearnerTrainingConfig(optim_lr=1.5e-3, ema_decay=ema, batch_size=large)
    training = [first] + [later] * len(sizes[1:])
    return Recipe(
        sizes,
        tuple(stages),
        tuple(training),
        train_valid_frac(images),
        tuple(_reasons(sizes, images, None if gpu else minutes, width, dropout)),
    )


def _sizes(side: int) -> tuple[int, ...]:
    """Return the sides of the stages' images: one stage, or a small one and one that enlarges."""
    factor = 1 if side <= ONE_STAGE else 2 if side <= 2 * ONE_STAGE else 4
    step = 4 if factor == 1 else 8 * factor
    if side % step or side < 8:
        near = [n for n in (side // step * step, (side // step + 1) * step) if n >= 8]
        raise UserError(
            f"`img_side_len` {side}: the networks of images of about this side need a multiple of "
            f"{step}; use {' or '.join(map(str, near or [8]))}"
        )
    return (side,) if factor == 1 else (side // factor, side)


def _dropout(images: int | None) -> float:
    return 0.1 if images is not None and images < FEW_IMAGES else 0.0


def train_valid_frac(images: int | None) -> float:
    """Return the share of so many images that is trained on; the rest is for validation."""
    most = DataConfig().valid_num
    share = VALIDATED if images is None else min(VALIDATED, most / images)
    return min(round(1 - share, 4), 0.9999)


def _ema_decay(steps: float) -> float:
    """Return the decay of an average over about a fiftieth of the steps, at least 50."""
    return round(1 - 1 / max(50.0, steps / 50), 5)


def _base(side: int, width: int, dropout: float) -> DiffusionConfig:
    """Return the first stage: a stem of 2 x 2 pixels, levels down to at least 4 tokens a side."""
    sides = [side // 2]
    while sides[-1] % 2 == 0 and sides[-1] > 4 and len(sides) < len(MULTS):
        sides.append(sides[-1] // 2)
    attends = tuple(each <= ATTENDED for each in sides)
    unet = UNetConfig(
        dim=width,
        dim_mults=MULTS[: len(sides)],
        layer_attns=attends,
        layer_cross_attns=attends,
        attn_heads=4,
        attn_head_dim=32,
        cond_dim=128,
        patch_size=2,
        dropout=dropout,
        norm_group_channels=GROUP,
    )
    first, last = TIME_SHIFT * side / 16, max(1.0, (side / FINE) ** 4)
    loss = LossConfig(space="x_0", weight="clamped_snr", time_shift=first, time_shift_end=last)
    return DiffusionConfig(
        unet=unet, prediction="x_0", loss=loss, cond_drop_prob=0.05, sampling=_sampling(side)
    )


def _sampling(side: int) -> SamplingConfig:
    """Return how the first stage samples: small images with new noise in twice as many steps.

    It makes fabric smooth and digits legible. Larger images are recognized less with it.
    """
    small = side <= FINE
    return SamplingConfig(
        sampler="ddpm" if small else "ddim",
        timesteps=32 if small else 16,
        guidance_scale=2.0,
        guidance_interval=(0.3, 0.9),
        thresholding="static",
    )


def _super_resolution(side: int) -> DiffusionConfig:
    """Return a stage that enlarges: no attention, a stem as fine as its images allow."""
    unet = UNetConfig(
        dim=48,
        dim_mults=(1, 2, 2),
        layer_attns=False,
        layer_cross_attns=False,
        attend_at_middle=False,
        patch_size=2 if side <= 128 else 4,
        norm_group_channels=GROUP,
    )
    loss = LossConfig(space="x_0", weight="clamped_snr", time_shift=12.0)
    sampling = SamplingConfig(sampler="ddim", timesteps=1, thresholding="static")
    return DiffusionConfig(
        unet=unet, prediction="x_0", loss=loss, sampling=sampling, aug_level_max=0.1
    )


def _reasons(
    sizes: tuple[int, ...], images: int | None, minutes: float | None, width: int, dropout: float
) -> Iterator[tuple[str, str]]:
    """Yield the parameter that is chosen, and one line that says why."""
    shown = " and ".join(map(str, sizes))
    if len(sizes) == 1:
        yield (
            "img_side_len",
            f"one stage of {shown} px: up to {ONE_STAGE} px it learns faster than a cascade",
        )
    else:
        yield (
            "img_side_len",
            f"stages of {shown} px: above {ONE_STAGE} px a cascade is cheaper than one stage",
        )
    if sizes[-1] > TESTED:
        yield (
            "img_side_len",
            f"untested: sides above {TESTED} px are extrapolated from smaller ones",
        )
    where = "a GPU" if minutes is None else f"{minutes:g} minutes on two CPU cores"
    yield "parameters", f"first level of {width} channels: suits {where}"
    if minutes is None:
        yield (
            "batch_size",
            f"batches of {GPU_BATCH}: on a GPU, small networks take hardly less time for fewer "
            "(`batch_size`)",
        )
    if dropout:
        yield (
            "parameters",
            f"dropout {dropout}: {images} images are few, and would be learned by heart",
        )
    words = f"{TEXT_ENCODER} as text encoder: it knows more words than t5_mini"
    yield "text_encoder", f"{words} (`text_encoder`)"
    gray = "static thresholding: dynamic thresholding grays the white of small images"
    yield "thresholding", f"{gray} (`thresholding`)"
    sampling = _sampling(sizes[0])
    smooth = "noise in every step smooths small images"
    why = smooth if sampling.sampler == "ddpm" else "it needs the fewest calls"
    steps = f"sampled by {sampling.sampler} in {sampling.timesteps} steps"
    yield "sampler", f"{steps}: {why} (`sampler`, `timesteps`)"
