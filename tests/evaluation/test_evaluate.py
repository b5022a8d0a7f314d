"""An evaluation of known painters: of the truth, of other captions' pictures, of faulty ones."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from minimagen.config import SamplingConfig
from minimagen.data.loading.reading import stack_images
from minimagen.evaluation.evaluate import Evaluation, evaluate, faithfulness
from minimagen.evaluation.judge import Judge
from minimagen.evaluation.metrics import psnr
from minimagen.imagen import Imagen
from minimagen.images import resize_clamped, to_model_space
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset
from minimagen.stages.stage import Condition

COUNT, SIZES = 120, ((16, 16), (64, 64))
Fault = Callable[[Tensor], Tensor]


class Painter:
    """Stands in for a cascade: paints the real pictures of ``order`` (seed i: the i-th of them).

    ``fault`` is what it does to the pictures of the last stage.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        samples: Sequence[Sample],
        text_encoder: Any,
        order: Sequence[int],
        fault: Fault = lambda pictures: pictures,
    ) -> None:
        self.pictures = to_model_space(stack_images([samples[i] for i in order]))
        self.fault = fault
        self.text_encoder = text_encoder
        self.config = SimpleNamespace(image_sizes=SIZES)
        self.stages = [SimpleNamespace(sample=self.sample), SimpleNamespace(sample=self.sample)]
        self.conditions: list[tuple[Condition, SamplingConfig]] = []

    def samplings(self) -> list[SamplingConfig]:
        return [SamplingConfig(guidance_scale=5.0, aug_level=0.3)] * 2

    def paint(self, text: Any, seeds: Sequence[int], samplings: Any) -> list[Tensor]:
        rows = self.pictures[list(seeds)]
        assert len(text.mask) == len(rows)
        return [resize_clamped(rows, SIZES[0]), self.fault(rows)]

    def sample(self, condition: Condition, seeds: Sequence[int], sampling: Any) -> Tensor:
        self.conditions.append((condition, sampling))
        return self.fault(self.pictures[list(seeds)])


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(ShapesDataset("heldout", "simple", 64, seed=5, epoch_size=COUNT))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load("simple")


def measured(
    painter: Painter, samples: Sequence[Sample], judge: Judge
) -> tuple[Evaluation, list[Tensor]]:
    return evaluate(cast(Imagen, painter), samples, judge, "heldout", batch_size=50)


def test_who_paints_the_truth_scores_what_the_judge_gives_the_truth(
    samples: list[Sample], judge: Judge, text_encoder: Any
) -> None:
    painter = Painter(samples, text_encoder, range(COUNT))
    result, painted = measured(painter, samples, judge)
    assert (result.count, result.split) == (COUNT, "heldout")
    assert result.stages == result.real and len(result.stages) == 2
    assert result.stages[1]["all"] > 0.97
    assert result.shuffled["all"] < 0.05 and result.shuffled["size"] == pytest.approx(0.5, abs=0.15)
    low, high = result.interval
    assert low < result.stages[1]["all"] <= high and high - low < 0.1
    assert [tuple(p.shape) for p in painted] == [(COUNT, 3, *size) for size in SIZES]
    assert painted[1].equal(stack_images(samples))
    (scores,) = result.super_resolution
    assert scores["colour_shift"] < 0.5 and scores["psnr_input"] > 60
    assert scores["psnr_truth"] > 100
    pictures = to_model_space(stack_images(samples))
    bicubic = resize_clamped(resize_clamped(pictures, SIZES[0]), SIZES[1])
    assert scores["psnr_bicubic"] == pytest.approx(float(psnr(bicubic, pictures).mean()))


def test_who_paints_other_captions_pictures_is_at_chance(
    samples: list[Sample], judge: Judge, text_encoder: Any
) -> None:
    others = [(i + 1) % COUNT for i in range(COUNT)]
    result, _ = measured(Painter(samples, text_encoder, others), samples, judge)
    chance = {"shape": 1 / 8, "color": 1 / 10, "background": 1 / 10, "size": 1 / 2}
    for scores in result.stages:
        assert scores["all"] < 0.05
        for name, expected in chance.items():
            assert scores[name] == pytest.approx(expected, abs=0.15)
    assert result.real[1]["all"] > 0.97  # the judge is not blamed for the painter
    assert result.interval[1] < 0.1


def test_faults_of_super_resolution_are_measured_in_their_units(
    samples: list[Sample], judge: Judge, text_encoder: Any
) -> None:
    def greyer(pictures: Tensor) -> Tensor:
        return 0.5 * pictures

    painter = Painter(samples, text_encoder, range(COUNT), greyer)
    result, _ = measured(painter, samples, judge)
    pictures = painter.pictures
    error = (0.5 * pictures).square().flatten(1).mean(1)
    expected = (10 * torch.log10(4 / error)).mean()
    (scores,) = result.super_resolution
    assert scores["psnr_truth"] == pytest.approx(float(expected), abs=0.01)
    shift = (0.5 * pictures).mean((2, 3)).abs().amax(1).mean() * 127.5
    assert scores["colour_shift"] == pytest.approx(float(shift), abs=0.5)
    assert scores["psnr_input"] < 20


def test_enlarging_is_judged_on_real_pictures_without_guidance_and_noise(
    samples: list[Sample], judge: Judge, text_encoder: Any
) -> None:
    painter = Painter(samples, text_encoder, range(COUNT))
    measured(painter, samples, judge)
    assert [len(condition.text_mask) for condition, _ in painter.conditions] == [50, 50, 20]
    low_res = torch.cat([condition.low_res for condition, _ in painter.conditions])
    assert low_res.equal(resize_clamped(painter.pictures, SIZES[0]))
    assert {(s.guidance_scale, s.aug_level) for _, s in painter.conditions} == {(1.0, 0.0)}


def test_a_colour_cast_shows_in_the_shift_and_against_the_input() -> None:
    low_res = torch.zeros(2, 3, 4, 4)
    pictures = torch.zeros(2, 3, 16, 16)
    pictures[:, 0] = 5.1 / 127.5
    scores = faithfulness(pictures, low_res)
    assert scores["colour_shift"] == pytest.approx(5.1, abs=1e-3)
    one_channel = (5.1 / 127.5) ** 2 / 3
    assert scores["psnr_input"] == pytest.approx(
        float(10 * torch.log10(torch.tensor(4 / one_channel))), abs=1e-3
    )
