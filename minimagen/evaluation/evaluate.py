"""Does the picture show what the caption says, and is super-resolution faithful?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minimagen.config import SamplingConfig
from minimagen.data.loading.reading import stack_images
from minimagen.device import autocast
from minimagen.evaluation.judge import Judge, score
from minimagen.evaluation.metrics import colour_shift, psnr, wilson_interval
from minimagen.imagen import Imagen
from minimagen.images import resize_clamped, to_model_space, to_uint8
from minimagen.sample import Sample
from minimagen.stages.stage import Condition
from minimagen.text.encoding import encode_batch

Scores = dict[str, float]


@dataclass
class Evaluation:
    """What was measured. Accuracies are shares in [0, 1]."""

    count: int
    split: str
    stages: list[Scores] = field(default_factory=list)
    """Accuracy per attribute and ``all`` of every stage's pictures."""
    real: list[Scores] = field(default_factory=list)
    """The judge on real renders of the same captions at every stage's size."""
    shuffled: Scores = field(default_factory=dict)
    """The last stage's verdicts against other pictures' captions: chance."""
    interval: tuple[float, float] = (0.0, 0.0)
    """95 % interval of the last stage's ``all``."""
    super_resolution: list[Scores] = field(default_factory=list)
    """For every stage but the first; see ``faithfulness``."""


def evaluate(
    imagen: Imagen,
    samples: Sequence[Sample],
    judge: Judge,
    split: str,
    samplings: Sequence[SamplingConfig] | None = None,
    batch_size: int = 50,
    precision: str = "auto",
) -> tuple[Evaluation, list[Tensor]]:
    """Paint the captions of ``samples`` (seed i for caption i), judge and compare.

    Returns:
        The evaluation, and every stage's pictures, uint8 [b 3 h w].
    """
    samplings = samplings or imagen.samplings()
    captions, truth = [s.caption for s in samples], [s.attributes for s in samples]
    painted = _paint(imagen, captions, samplings, batch_size, precision)
    shuffled = random.Random(0).sample(truth, len(truth))
    result = Evaluation(count=len(samples), split=split)
    pictures = to_model_space(stack_images(samples))
    for stage, size in zip(painted, imagen.config.image_sizes, strict=True):
        verdicts = judge(to_uint8(stage))
        result.stages.append(score(verdicts, truth))
        result.real.append(score(judge(to_uint8(resize_clamped(pictures, size))), truth))
        result.shuffled = score(verdicts, shuffled)
    right = round(result.stages[-1]["all"] * len(samples))
    result.interval = wilson_interval(right, len(samples))
    for i in range(1, len(painted)):
        result.super_resolution.append(
            faithfulness(painted[i], painted[i - 1])
            | against_truth(imagen, i, samples, samplings[i], batch_size, precision)
        )
    return result, [to_uint8(stage) for stage in painted]


def _paint(
    imagen: Imagen,
    captions: Sequence[str],
    samplings: Sequence[SamplingConfig],
    batch_size: int,
    precision: str,
) -> list[Tensor]:
    batches = []
    for start in range(0, len(captions), batch_size):
        rows = range(start, min(start + batch_size, len(captions)))
        text = encode_batch(imagen.text_encoder, [captions[i] for i in rows])
        with autocast(imagen.device, precision):
            batches.append([p.cpu() for p in imagen.paint(text, rows, samplings)])
    return [torch.cat(stage) for stage in zip(*batches, strict=True)]


def faithfulness(pictures: Tensor, low_res: Tensor) -> Scores:
    """Compare super-resolved pictures with the low-resolution ones that they were made from.

    Returns:
        ``colour_shift``: mean over pictures of the largest difference of a channel's mean, in
        1/255. ``psnr_input``: PSNR of the down-sampled pictures against their input, dB.
    """
    down = resize_clamped(pictures, (low_res.shape[-2], low_res.shape[-1]))
    return {
        "colour_shift": float(colour_shift(pictures, low_res).mean()),
        "psnr_input": float(psnr(down, low_res).mean()),
    }


def against_truth(
    imagen: Imagen,
    i: int,
    samples: Sequence[Sample],
    sampling: SamplingConfig,
    batch_size: int,
    precision: str,
) -> Scores:
    """Enlarge down-sampled real pictures, guidance 1 and aug level 0, and compare with the truth.

    Returns:
        ``psnr_truth`` of the stage and ``psnr_bicubic`` of bicubic enlargement, dB.
    """
    sampling = sampling.replace(guidance_scale=1.0, aug_level=0.0)
    enlarged, bicubic = [], []
    for start in range(0, len(samples), batch_size):
        rows = samples[start : start + batch_size]
        pictures = to_model_space(stack_images(rows))
        truth = resize_clamped(pictures, imagen.config.image_sizes[i])
        low_res = resize_clamped(pictures, imagen.config.image_sizes[i - 1])
        text = encode_batch(imagen.text_encoder, [sample.caption for sample in rows])
        text = text.to(imagen.device)
        condition = Condition(text.embeds, text.mask, low_res.to(imagen.device))
        with autocast(imagen.device, precision):
            seeds = range(start, start + len(rows))
            painted = imagen.stages[i].sample(condition, seeds, sampling).cpu()
        enlarged.append(psnr(painted, truth))
        plain = resize_clamped(low_res, imagen.config.image_sizes[i])
        bicubic.append(psnr(plain, truth))
    return {
        "psnr_truth": float(torch.cat(enlarged).mean()),
        "psnr_bicubic": float(torch.cat(bicubic).mean()),
    }
