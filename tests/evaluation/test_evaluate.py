"""An evaluation of known images: the truth itself, other captions' images, faulty ones."""

import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from minimagen.config import SamplingConfig
from minimagen.data.loading.reading import stack_images
from minimagen.evaluation.evaluate import Evaluation, evaluate, faithfulness
from minimagen.evaluation.judge import Judge
from minimagen.imagen import Imagen
from minimagen.images import psnr, resize_clamped, to_model_space
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset

COUNT, SIZES = 120, ((16, 16), (64, 64))
Fault = Callable[[Tensor], Tensor]


def half(low_res: Tensor) -> Tensor:
    """Stand in for what an autoencoder leaves of images."""
    return low_res / 2


class Known:
    """Stands in for a cascade: samples the real images of ``order`` (seed i: the i-th of them).

    ``fault`` is what it does to the images of the last stage.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        order: Sequence[int],
        fault: Fault = lambda images: images,
    ) -> None:
        self.images = to_model_space(stack_images([samples[i] for i in order]))
        self.captions = [sample.caption for sample in samples]
        self.fault = fault
        self.config = SimpleNamespace(image_sizes=SIZES)
        self.device = torch.device("cpu")
        self.stages = [None, SimpleNamespace(as_sampled=half)]
        self.enlarged: list[tuple[Tensor, SamplingConfig]] = []

    def samplings(self) -> list[SamplingConfig]:
        return [SamplingConfig(guidance_scale=5.0, aug_level=0.3)] * 2

    def sample_batches(
        self,
        captions: Sequence[str],
        samplings: Sequence[SamplingConfig],
        seeds: Sequence[int],
        *,
        batch_size: int,
        precision: str,
        first: int = 0,
        low_res: Tensor | None = None,
    ) -> Iterator[list[Tensor]]:
        assert list(captions) == self.captions and len(samplings) == 2 - first
        for start in range(0, len(seeds), batch_size):
            rows = self.images[list(seeds[start : start + batch_size])]
            both = [resize_clamped(rows, SIZES[0]), self.fault(rows)]
            if low_res is not None:
                part = low_res[start : start + batch_size]
                self.enlarged.append((part, samplings[0]))
            yield both[first:]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(ShapesDataset("heldout", "simple", 64, seed=5, epoch_size=COUNT))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load("simple")


def measured(
    known: Known, samples: Sequence[Sample], judge: Judge
) -> tuple[Evaluation, list[Tensor]]:
    return evaluate(cast(Imagen, known), samples, judge, batch_size=50)


@pytest.fixture(scope="module")
def truth(samples: list[Sample], judge: Judge) -> tuple[Known, Evaluation, list[Tensor]]:
    """A cascade that samples the truth, and what is measured of it; read only."""
    known = Known(samples, range(COUNT))
    return known, *measured(known, samples, judge)


def means(result: Evaluation) -> dict[str, float]:
    """Return what was measured of the one stage of super-resolution, its means over images."""
    (scores,) = result.super_resolution
    assert all(values.shape == (COUNT,) for values in scores.values())
    return {name: float(values.mean()) for name, values in scores.items()}


def test_the_truth_scores_what_the_judge_gives_the_truth(
    samples: list[Sample], truth: tuple[Known, Evaluation, list[Tensor]]
) -> None:
    _, result, sampled = truth
    assert result.stages == result.real and len(result.stages) == 2
    assert result.stages[1]["all"] > 0.97
    assert result.shuffled["all"] < 0.05 and result.shuffled["size"] == pytest.approx(0.5, abs=0.15)
    low, high = result.interval
    assert low < result.stages[1]["all"] <= high and high - low < 0.1
    assert [tuple(p.shape) for p in sampled] == [(COUNT, 3, *size) for size in SIZES]
    assert sampled[1].equal(stack_images(samples))
    scores = means(result)
    assert scores["color_shift"] < 0.5 and scores["psnr_input"] > 60
    assert scores["psnr_truth"] > 100
    images = to_model_space(stack_images(samples))
    bicubic = resize_clamped(half(resize_clamped(images, SIZES[0])), SIZES[1])  # of the same input
    assert scores["psnr_bicubic"] == pytest.approx(float(psnr(bicubic, images).mean()))


def test_other_captions_images_are_at_chance(samples: list[Sample], judge: Judge) -> None:
    others = [(i + 1) % COUNT for i in range(COUNT)]
    result, _ = measured(Known(samples, others), samples, judge)
    chance = {"shape": 1 / 8, "color": 1 / 10, "background": 1 / 10, "size": 1 / 2}
    for scores in result.stages:
        assert scores["all"] < 0.05
        for name, expected in chance.items():
            assert scores[name] == pytest.approx(expected, abs=0.15)
    assert result.real[1]["all"] > 0.97  # the judge is not blamed for the images
    assert result.interval[1] < 0.1


def test_faults_of_super_resolution_are_measured_in_their_units(
    samples: list[Sample], judge: Judge
) -> None:
    def grayer(images: Tensor) -> Tensor:
        return 0.5 * images

    known = Known(samples, range(COUNT), grayer)
    result, _ = measured(known, samples, judge)
    images = known.images
    error = (0.5 * images).square().flatten(1).mean(1)
    expected = (10 * torch.log10(4 / error)).mean()
    scores = means(result)
    assert scores["psnr_truth"] == pytest.approx(float(expected), abs=0.01)
    shift = (0.5 * images).mean((2, 3)).abs().amax(1).mean() * 127.5
    assert scores["color_shift"] == pytest.approx(float(shift), abs=0.5)
    assert scores["psnr_input"] < 20


def test_enlarging_is_judged_on_real_images_without_guidance_and_noise(
    truth: tuple[Known, Evaluation, list[Tensor]],
) -> None:
    known, _, _ = truth
    assert [len(low_res) for low_res, _ in known.enlarged] == [50, 50, 20]
    low_res = torch.cat([low_res for low_res, _ in known.enlarged])
    assert low_res.equal(half(resize_clamped(known.images, SIZES[0])))  # as the stage gets them
    assert {(s.guidance_scale, s.aug_level) for _, s in known.enlarged} == {(1.0, 0.0)}


def test_a_color_cast_shows_in_the_shift_and_against_the_input() -> None:
    low_res = torch.zeros(2, 3, 4, 4)
    images = torch.zeros(2, 3, 16, 16)
    images[:, 0] = 5.1 / 127.5
    scores = faithfulness(images, low_res)
    assert scores["color_shift"].tolist() == pytest.approx([5.1, 5.1], abs=1e-3)
    one_channel = (5.1 / 127.5) ** 2 / 3
    ratio = 10 * math.log10(4 / one_channel)
    assert scores["psnr_input"].tolist() == pytest.approx([ratio, ratio], abs=1e-3)
