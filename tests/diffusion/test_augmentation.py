import math

import pytest
import torch

from minimagen.diffusion.augmentation import augment
from minimagen.diffusion.schedule import Schedule

SCHEDULE = Schedule("cosine")


def pictures():
    random = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 8, 8, generator=random) * 2 - 1, torch.randn(
        4, 3, 8, 8, generator=random
    )


def test_level_0_leaves_the_picture_as_it_is():
    low_res, noise = pictures()
    out = augment(low_res, torch.zeros(4), noise, SCHEDULE)
    assert (out - low_res).square().mean().sqrt() < 5e-5
    assert (out - low_res).abs().max() < 5e-5 * noise.abs().max()


def test_level_1_leaves_nothing_of_the_picture():
    low_res, noise = pictures()
    out = augment(low_res, torch.ones(4), noise, SCHEDULE)
    torch.testing.assert_close(out, noise, rtol=0, atol=1e-4)


def test_levels_are_per_sample_and_follow_the_schedule():
    low_res, noise = pictures()
    levels = torch.tensor([0.1, 0.3, 0.5, 0.9])
    out = augment(low_res, levels, noise, SCHEDULE)
    for i, t in enumerate(levels.tolist()):
        expected = math.cos(math.pi / 2 * t) * low_res[i] + math.sin(math.pi / 2 * t) * noise[i]
        torch.testing.assert_close(out[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [0.2, 0.6])
def test_a_flat_picture_keeps_its_colour_up_to_alpha(level):
    """Noise before instead of after normalisation would move the mean and double the noise."""
    flat = torch.full((1, 3, 200, 200), -0.6)
    noise = torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(1))
    out = augment(flat, torch.tensor([level]), noise, SCHEDULE)
    assert out.mean().item() == pytest.approx(-0.6 * math.cos(math.pi / 2 * level), abs=0.01)
    assert out.std().item() == pytest.approx(math.sin(math.pi / 2 * level), rel=0.01)
