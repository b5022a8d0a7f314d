"""Does the image show what the caption describes, and is super-resolution faithful?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minimagen.config import SamplingConfig
from minimagen.data.loading.reading import stack_images
from minimagen.draws import rng
from minimagen.evaluation.judge import Judge, score
from minimagen.evaluation.metrics import (
    color_shift,
    grain,
    kernel_distance,
    ssim,
    wilson_interval,
)
from minimagen.evaluation.sampler import Sampler
from minimagen.imagen import Imagen
from minimagen.images import psnr, resize_clamped, to_model_space, to_uint8
from minimagen.sample import Sample

Scores = dict[str, float]
ByImage = dict[str, Tensor]
"""Of each image, [n]."""


@dataclass
class Evaluation:
    """What was measured. Accuracies are shares in [0, 1]."""

    stages: list[Scores] = field(default_factory=list)
    """Accuracy per attribute and ``all`` of every stage's images."""
    real: list[Scores] = field(default_factory=list)
    """The judge on real renders of the same captions at every stage's size."""
    shuffled: Scores = field(default_factory=dict)
    """The last stage's verdicts against other images' captions: chance."""
    interval: tuple[float, float] = (0.0, 0.0)
    """95 % interval of the last stage's ``all``."""
    super_resolution: list[ByImage] = field(default_factory=list)
    """For every stage but the first; see ``faithfulness``."""
    looks: list[Scores] = field(default_factory=list)
    """How every stage's images look beside real renders of the captions; see ``look``."""


def evaluate(
    imagen: Imagen,
    samples: Sequence[Sample],
    judge: Judge,
    samplings: Sequence[SamplingConfig] | None = None,
    batch_size: int = 50,
    precision: str = "auto",
) -> tuple[Evaluation, list[Tensor]]:
    """Sample the captions of ``samples`` (seed i for caption i), judge and compare.

    Returns:
        The evaluation, and every stage's images, uint8 [b 3 h w].
    """
    samplings = list(samplings or imagen.samplings())
    captions, truth = [s.caption for s in samples], [s.attributes for s in samples]
    options: dict[str, Any] = {"batch_size": batch_size, "precision": precision}
    sampled = Sampler(imagen, samplings, options=options)(captions)
    shuffled = rng(0, "shuffled captions").sample(truth, len(truth))
    result = Evaluation()
    images = to_model_space(stack_images(samples))
    for stage, size in zip(sampled, imagen.config.image_sizes, strict=True):
        verdicts = judge(to_uint8(stage))
        result.stages.append(score(verdicts, truth))
        result.real.append(score(judge(to_uint8(resize_clamped(images, size))), truth))
        result.shuffled = score(verdicts, shuffled)
        result.looks.append(look(judge, stage, resize_clamped(images, size)))
    correct = round(result.stages[-1]["all"] * len(samples))
    result.interval = wilson_interval(correct, len(samples))
    result.super_resolution = enlarging(imagen, sampled, samples, samplings, **options)
    return result, [to_uint8(stage) for stage in sampled]


def enlarging(
    imagen: Imagen,
    sampled: Sequence[Tensor],
    samples: Sequence[Sample],
    samplings: Sequence[SamplingConfig],
    **options: Any,
) -> list[ByImage]:
    """Return ``faithfulness`` and ``against_truth`` of every stage but the first.

    ``sampled`` are the images of every stage, [n 3 h w] in [-1, 1].
    """
    return [
        faithfulness(sampled[i], sampled[i - 1])
        | against_truth(imagen, i, samples, samplings[i], **options)
        for i in range(1, len(sampled))
    ]


def look(judge: Judge, images: Tensor, real: Tensor) -> Scores:
    """Compare generated images with real ones, both [b 3 h w] in [-1, 1].

    Returns:
        ``kernel``: their ``kernel_distance`` in the judge's features, about 0 for two sets of one
        distribution. ``grain`` and ``grain_real``: the noise in flat parts, in
        1/255 (``grain``), mean over images.
    """
    features = [judge.features(to_uint8(each)) for each in (images, real)]
    return {
        "kernel": kernel_distance(*features),
        "grain": float(grain(images).mean()),
        "grain_real": float(grain(real).mean()),
    }


def faithfulness(images: Tensor, low_res: Tensor) -> ByImage:
    """Compare super-resolved images with the low-resolution ones that they were made from.

    Returns:
        ``color_shift``: each image's largest difference of a channel's mean, in 1/255 [b].
        ``psnr_input``: PSNR of each down-sampled image against its input, dB [b].
    """
    down = resize_clamped(images, (low_res.shape[-2], low_res.shape[-1]))
    return {
        "color_shift": color_shift(images, low_res),
        "psnr_input": psnr(down, low_res),
    }


def against_truth(
    imagen: Imagen, i: int, samples: Sequence[Sample], sampling: SamplingConfig, **options: Any
) -> ByImage:
    """Enlarge down-sampled real images with stage ``i``, and compare with the truth.

    They go through the autoencoder of the stage before where the stage is trained so.

    Sampling is that of ``sampling`` with guidance 1 and aug level 0; ``options`` are those of
    ``Imagen.sample_batches``.

    Returns:
        ``psnr_truth`` of the stage and ``psnr_bicubic`` of bicubic enlargement, dB; likewise
        ``ssim_truth`` and ``ssim_bicubic``. Each is [n].
    """
    sampling = sampling.replace(guidance_scale=1.0, aug_level=0.0)
    images = to_model_space(stack_images(samples))
    size, low_res_size = imagen.config.image_sizes[i], imagen.config.image_sizes[i - 1]
    truth, small = resize_clamped(images, size), resize_clamped(images, low_res_size)
    low_res = imagen.stages[i].as_sampled(small.to(imagen.device)).cpu()
    captions, seeds = [sample.caption for sample in samples], range(len(samples))
    batches = imagen.sample_batches(
        captions, [sampling], seeds, first=i, low_res=low_res, **options
    )
    enlarged = torch.cat([batch[0] for batch in batches])
    bicubic = resize_clamped(low_res, size)
    return {
        "psnr_truth": psnr(enlarged, truth),
        "psnr_bicubic": psnr(bicubic, truth),
        "ssim_truth": ssim(enlarged, truth),
        "ssim_bicubic": ssim(bicubic, truth),
    }
