"""The benchmark on real data: its figures on images whose figures are known."""

import pytest
import torch

from benchmarks.real_data import SETS, Images, available, balanced, is_held_out
from benchmarks.real_scores import background


def test_a_balanced_choice_takes_every_caption_in_turn():
    real = Images(torch.zeros(7, 3, 4, 4, dtype=torch.uint8), ["a"] * 5 + ["b"] * 2)
    chosen = balanced(real, 4).captions
    assert sorted(chosen) == ["a", "a", "b", "b"]


def test_held_out_emoji_remain_in_another_style():
    rows = [{"text": f"thing {i}", "style": s} for i in range(200) for s in ("x", "y")]
    rows += [{"text": f"only {i}", "style": "x"} for i in range(200)]
    out = is_held_out(rows)
    held_out = {row["text"] for row, each in zip(rows, out, strict=True) if each}
    kept = {row["text"] for row, each in zip(rows, out, strict=True) if not each}
    assert held_out and held_out <= kept
    assert len(held_out) == sum(out)  # one style of each


def test_grain_is_measured_on_the_white_border_of_the_real_image_only():
    truth = torch.full((4, 3, 64, 64), 255, dtype=torch.uint8)
    truth[:, :, 20:40, 20:40] = 0
    made = truth.clone()
    made[:, :, 1, ::2] = 235
    made[:, :, 30, 30] = 77  # not on the border
    figures = background(SETS["emoji"], made, Images(truth, ["a"] * 4))
    assert figures["flat_std_real"] == 0.0
    assert 3.0 < figures["flat_std"] < 6.0
    assert figures["flat_level"] == 255


@pytest.mark.skipif(not available(), reason="no real data in $MINIMAGEN_BENCHMARK_DATA")
def test_the_real_sets_have_a_caption_for_each_image():
    real = SETS["emoji_few"]
    training, held_out = real.training_images(), real.held_out_images()
    assert 500 < len(training) == len(training.captions) < len(real.all_images()) == 600
    assert not set(training.captions) & set(held_out.captions)


def test_data_without_a_flat_border_has_no_figure_for_it():
    truth = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    truth[:, :, 0, 0] = 0  # one black corner, as in clothes, is no border
    assert background(SETS["fashion_mnist"], truth, Images(truth, ["Coat"] * 4)) == {}
