"""The shipped judges are fair: right on real renders, at chance on other images' captions."""

import functools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minimagen.errors import UserError
from minimagen.evaluation.judge import WEIGHTS, Judge, JudgeNetwork, score
from minimagen.images import resize_clamped, to_model_space, to_uint8
from minimagen.sample import Sample
from minimagen.shapes import scenes
from minimagen.shapes.dataset import embedded

SOURCES = {"simple": "shapes", "scenes": "shapes:scenes", "digits": "digits"}
SEED = 77  # no render of this seed was seen in training


@functools.cache
def _renders(level: str, count: int, split: str = "heldout") -> tuple[Tensor, list[Sample]]:
    """Return uint8 [b 3 64 64] and the samples; they are read only."""
    dataset = embedded(SOURCES[level], split=split, size=64, seed=SEED)
    samples = [dataset[i] for i in range(count)]
    return torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2), samples


def _small(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images as the cascade does."""
    return to_uint8(resize_clamped(to_model_space(images), (size, size)))


@pytest.mark.parametrize(
    "level, size, limit",
    [("simple", 16, 0.99), ("simple", 64, 0.99), ("scenes", 64, 0.98), ("digits", 64, 0.97)],
)
def test_the_judge_is_right_on_fresh_renders(level: str, size: int, limit: float) -> None:
    images, samples = _renders(level, 600)
    result = score(Judge.load(level)(_small(images, size)), [s.attributes for s in samples])
    assert result["all"] >= limit
    assert result.keys() == {"all", *embedded(SOURCES[level]).drawing.ATTRIBUTES}


def test_the_judge_is_at_chance_on_shuffled_captions() -> None:
    images, samples = _renders("simple", 600, "train")
    truth = [s.attributes for s in samples]
    random.Random(0).shuffle(truth)
    result = score(Judge.load()(images), truth)
    chance = {"shape": 1 / 8, "color": 1 / 10, "background": 1 / 10, "size": 1 / 2, "pattern": 0.28}
    assert result["all"] < 0.01
    for name, expected in chance.items():
        assert abs(result[name] - expected) < 0.07


def test_the_judge_names_faulty_images_by_what_they_show() -> None:
    """Noise, a color cast and enlargement from 16 pixels are not what it is asked about."""
    images, samples = _renders("simple", 300)
    x = to_model_space(_small(_small(images, 16), 64))
    generator = torch.Generator().manual_seed(0)
    noise = 0.08 * torch.randn(x.shape, generator=generator)
    cast = 0.06 * torch.randn(len(x), 3, 1, 1, generator=generator)
    verdicts = Judge.load()(to_uint8(x + noise + cast))
    assert score(verdicts, [s.attributes for s in samples])["all"] >= 0.97


def test_a_wrong_image_is_called_wrong() -> None:
    """Changing one attribute of an image changes that verdict and no other."""
    images, samples = _renders("simple", 200)
    judge = Judge.load()
    swapped = images.flip(1)  # red and blue channels change places: colors differ, shapes do not
    truth = [s.attributes for s in samples]
    result = score(judge(swapped), truth)
    assert result["color"] < 0.7
    assert result["size"] > 0.97 and result["shape"] > 0.97


def test_a_verdict_does_not_depend_on_the_batch() -> None:
    images, _ = _renders("scenes", 300)
    judge = Judge.load("scenes")
    together = judge(images)
    alone = judge(images[290:])
    assert all(together[name][290:] == alone[name] for name in together)
    features = judge.features(images[:5])
    assert features.shape == (5, judge.config.features)
    assert torch.allclose(features[3:4], judge.features(images[3:4]), atol=1e-4)


def test_attributes_that_a_kind_does_not_have_are_left_empty() -> None:
    images, _ = _renders("scenes", 60)
    verdicts = Judge.load("scenes")(images)
    for row, kind in enumerate(verdicts["kind"]):
        filled = {name for name in verdicts if verdicts[name][row]}
        assert filled == {"kind", *scenes.KINDS[kind]}


def test_the_score_counts_what_the_truth_has() -> None:
    verdicts = {"shape": ["star", "ring", "star"], "count": ["two", "", "two"]}
    truth = [
        {"shape": "star", "count": "two"},
        {"shape": "ring"},
        {"shape": "moon", "count": "two"},
    ]
    result = score(verdicts, truth)
    assert result == pytest.approx({"shape": 2 / 3, "count": 1.0, "all": 2 / 3})
    with pytest.raises(ValueError, match="truth of 2 "):
        score(verdicts, truth[:2])


def test_a_saved_judge_is_the_same_judge(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = replace(Judge.load().config, widths=(8, 8), strides=(4, 4), features=16)
    judge = Judge(JudgeNetwork(config))
    judge.save(tmp_path / "j.safetensors")
    again = Judge.load(path=tmp_path / "j.safetensors")
    images, _ = _renders("simple", 20)
    assert again.config == config
    assert torch.allclose(again.features(images), judge.features(images), atol=5e-3)


def test_shipped_weights_are_small_and_an_unknown_level_is_explained() -> None:
    files = list(WEIGHTS.glob("*.safetensors"))
    assert {f.stem for f in files} == {"simple", "scenes", "digits"}
    assert all(f.stat().st_size <= 600_000 for f in files)
    with pytest.raises(UserError, match="did you mean 'simple'"):
        Judge.load("simpel")
