"""The metrics have their closed forms."""

import math

import pytest
import torch

from minimagen.draws import generator
from minimagen.evaluation.clip import alignment
from minimagen.evaluation.metrics import (
    color_shift,
    frechet_distance,
    grain,
    kernel_distance,
    kid,
    mean_interval,
    t_quantile,
    wilson_interval,
)
from minimagen.images import psnr


def test_psnr_is_the_peak_over_the_mean_square_error_per_image():
    black, white = torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), 1.0)
    assert psnr(black, white).tolist() == pytest.approx([0.0])  # the error is the peak
    a = torch.zeros(3, 3, 8, 8)
    b = torch.stack([torch.full((3, 8, 8), error) for error in (0.2, 0.02, -0.02)])
    assert psnr(a, b).tolist() == pytest.approx([20.0, 40.0, 40.0])
    one_pixel = torch.zeros(1, 3, 8, 8)
    one_pixel[0, 0, 0, 0] = 2.0
    assert psnr(one_pixel, a[:1]).tolist() == pytest.approx([10 * math.log10(3 * 8 * 8)])
    assert 100 < psnr(a, a).max() < float("inf")


def test_the_color_shift_is_the_largest_difference_of_a_channels_mean_in_255ths():
    a = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    b = a.clone()
    b[0, 1] += 4 / 127.5
    b[0, 2] -= 10 / 127.5
    assert color_shift(a, b).tolist() == pytest.approx([10.0, 0.0], abs=1e-4)
    assert color_shift(b, a).tolist() == pytest.approx([10.0, 0.0], abs=1e-4)
    shuffled = a.flatten(2)[:, :, torch.randperm(64)].view_as(a)
    assert color_shift(a, shuffled).max() < 1e-4  # where the colors are does not matter
    assert color_shift(a[:, :, ::2, ::2], a[:, :, ::2, ::2].repeat(1, 1, 2, 2)).max() < 1e-4


@pytest.mark.parametrize(("right", "total"), [(0, 200), (1, 7), (100, 200), (200, 200)])
def test_the_interval_ends_where_the_share_is_z_deviations_away(right, total):
    """Wilson's definition: |share - p| = z sqrt(p (1 - p) / n) at both ends p."""
    low, high = wilson_interval(right, total)
    share = right / total
    assert -1e-12 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1 + 1e-12 and low < high
    for end in (low, high):
        distance = abs(share - end)
        assert distance == pytest.approx(
            1.96 * math.sqrt(max(0.0, end * (1 - end)) / total), abs=1e-6
        )
    mirrored = wilson_interval(total - right, total)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_the_interval_of_ten_in_a_hundred_is_that_of_the_tables():
    assert wilson_interval(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_the_kernel_distance_is_0_for_one_distribution_and_grows_with_a_shift():
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400, 16, generator=random)
    assert abs(kid(a, b)) < 0.02
    assert kid(a, b + 1.0) > kid(a, b + 0.5) > 0.1


def test_the_frechet_distance_of_gaussians_is_their_closed_form():
    # Independent coordinates: the sum of (m1 - m2)^2 + (s1 - s2)^2, here of whitened samples.
    draws = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    white = draws - draws.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T))).T
    spread, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, -2.0])
    expected = float(shift.square().sum() + (spread - 1).square().sum())
    assert frechet_distance(white, white * spread + shift) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(white, white) == pytest.approx(0.0, abs=1e-6)


def test_grain_is_the_deviation_of_noise_and_0_beside_an_edge():
    flat = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    flat[..., 32:] = 1.0  # an edge crosses fewer windows than a quarter of them
    assert grain(flat).item() == 0.0
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert grain(flat + noise * (8 / 127.5), window=31).item() > 7.0
    assert grain(noise.double() * (8 / 127.5), window=31).item() == pytest.approx(8.0, rel=0.05)


def test_the_kernel_distance_does_not_depend_on_the_scale_of_the_features():
    a, b = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(1)).double() + 1.0
    expected = 1000 * kid(a / b.square().mean().sqrt(), b / b.square().mean().sqrt())
    assert kernel_distance(7 * a, 7 * b) == pytest.approx(expected)
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_alignment_is_the_cosine_above_that_with_another_caption() -> None:
    """Orthogonal unit vectors: own captions, captions moved by one, two equal captions."""
    vectors, captions = torch.eye(5), list("abcde")
    own = alignment(vectors, vectors, captions)
    assert own.gap.tolist() == [1.0] * 5 and own.nearest.tolist() == [True] * 5
    moved = alignment(vectors, vectors.roll(1, 0), captions)
    assert moved.gap.tolist() == pytest.approx([-1 / 4] * 5) and not moved.nearest.any()
    texts = torch.eye(5)[[0, 0, 2, 3, 4]]
    twice = alignment(texts, texts, list("aacde"))  # the other "a" is no distractor
    assert twice.gap.tolist() == [1.0] * 5 and twice.nearest.tolist() == [True] * 5


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator("normal", *shape), dtype=torch.float64)


def test_the_interval_of_a_mean_of_equal_values_has_no_width() -> None:
    assert mean_interval(torch.full((7,), 0.25)) == (0.25, 0.25)
    assert mean_interval(torch.full((7,), 0.1, dtype=torch.float64)) == pytest.approx(
        (0.1, 0.1), abs=1e-14
    )


def test_the_interval_of_a_mean_is_that_of_the_tables() -> None:
    """Quantiles of the t distribution: Student's table; the values: mean 2, deviation 1."""
    table = {1: 12.706, 2: 4.303, 4: 2.776, 7: 2.365, 39: 2.023, 10**6: 1.960}
    for degrees, quantile in table.items():
        assert t_quantile(degrees) == pytest.approx(quantile, abs=6e-4)
    found = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
    assert found == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)


def test_the_interval_of_a_mean_covers_it_in_95_of_100_sets() -> None:
    for n in (3, 8, 40):
        found = [mean_interval(each) for each in normal(1000, n)]
        covered = sum(ends is not None and ends[0] <= 0.0 <= ends[1] for ends in found)
        assert covered / 1000 == pytest.approx(0.95, abs=0.02)


def test_units_of_several_values_are_one_draw_each() -> None:
    """Units of one to five values that share an error: their intervals hold the mean, too."""
    sizes, covered = [1 + i % 5 for i in range(20)], 0
    units = [i for i, size in enumerate(sizes) for _ in range(size)]
    for errors in normal(500, 20):
        ends = mean_interval(errors[units], units)
        covered += ends is not None and ends[0] <= 0.0 <= ends[1]
    assert covered / 500 == pytest.approx(0.95, abs=0.03)


def test_repeated_images_make_the_interval_of_a_mean_no_narrower() -> None:
    values = normal(20)
    names = [str(i) for i in range(20)]
    once = mean_interval(values)
    assert mean_interval(values.repeat(10), names * 10) == pytest.approx(once)
    narrow = mean_interval(values.repeat(10))
    assert once is not None and narrow is not None
    assert narrow[1] - narrow[0] < 0.5 * (once[1] - once[0])
    assert mean_interval(values[:1]) is None
    assert mean_interval(values, ["one image"] * 20) is None
