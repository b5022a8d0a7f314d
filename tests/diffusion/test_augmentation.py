import math

import pytest
import torch

from minimagen.diffusion.augmentation import augment
from minimagen.diffusion.schedule import Cosine, Level
from minimagen.images import resize

SCHEDULE = Cosine()


def images_and_noise():
    random = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 8, 8, generator=random) * 2 - 1, torch.randn(
        4, 3, 8, 8, generator=random
    )


def test_level_0_leaves_the_image_as_it_is():
    low_res, noise = images_and_noise()
    out = augment(low_res, torch.zeros(4), noise, SCHEDULE).images
    assert (out - low_res).square().mean().sqrt() < 5e-5
    assert (out - low_res).abs().max() < 5e-5 * noise.abs().max()


def test_level_1_leaves_nothing_of_the_image():
    low_res, noise = images_and_noise()
    out = augment(low_res, torch.ones(4), noise, SCHEDULE).images
    torch.testing.assert_close(out, noise, rtol=0, atol=1e-4)


def test_levels_are_per_image_and_follow_the_schedule():
    low_res, noise = images_and_noise()
    times = torch.tensor([0.1, 0.3, 0.5, 0.9])
    out, level = augment(low_res, times, noise, SCHEDULE)
    assert all(map(torch.equal, level, SCHEDULE.level(times)))
    for i, t in enumerate(times.tolist()):
        expected = math.cos(math.pi / 2 * t) * low_res[i] + math.sin(math.pi / 2 * t) * noise[i]
        torch.testing.assert_close(out[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [0.2, 0.6])
def test_a_flat_image_keeps_its_color_up_to_alpha(level):
    """Noise before instead of after normalization would move the mean and double the noise."""
    flat = torch.full((1, 3, 200, 200), -0.6)
    noise = torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(1))
    out = augment(flat, torch.tensor([level]), noise, SCHEDULE).images
    assert out.mean().item() == pytest.approx(-0.6 * math.cos(math.pi / 2 * level), abs=0.01)
    assert out.std().item() == pytest.approx(math.sin(math.pi / 2 * level), rel=0.01)


def test_noised_images_keep_each_its_own_level_when_resized_and_repeated():
    low_res, noise = images_and_noise()
    times = torch.tensor([0.1, 0.3, 0.5, 0.9])
    noised = augment(low_res, times, noise, SCHEDULE)
    large = noised.enlarged((16, 12))
    assert large.images.equal(resize(noised.images, (16, 12))) and large.level is noised.level
    twice = noised.repeat(2)
    assert twice.images.equal(torch.cat([noised.images, noised.images]))
    assert twice.level.log_snr.equal(torch.cat([noised.level.log_snr, noised.level.log_snr]))
    again = twice.rows(4)
    assert again.images.equal(noised.images)
    assert isinstance(again.level, Level) and all(map(torch.equal, again.level, noised.level))
