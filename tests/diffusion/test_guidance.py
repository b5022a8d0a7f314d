import pytest
import torch

from minimagen.diffusion.guidance import (
    MARGIN,
    Overshoot,
    guidance_at,
    guided,
    threshold,
    thresholded,
)

EVER = (0.0, 1.0)


def guide(cond, uncond, guidance_scale):
    """Return what the guided denoiser estimates whose network always answers the same."""
    both = torch.cat([cond, uncond])
    denoise = guided(lambda x_t, t: both[: len(x_t)], guidance_scale, EVER)
    return denoise(torch.zeros_like(cond), torch.full((len(cond),), 0.5, dtype=torch.float64))


def test_guidance_is_the_papers_extrapolation():
    cond, uncond = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(guide(cond, uncond, 3.0), 3.0 * cond + (1.0 - 3.0) * uncond)
    assert torch.equal(guide(cond, uncond, 1.0), cond)
    assert torch.equal(guide(cond, uncond, 0.0), uncond)


def test_guiding_x_0_and_guiding_eps_is_the_same():
    """All predictions are affine in each other, and guidance keeps affine combinations."""
    alpha, sigma, w = 0.8, 0.6, 5.0
    x_t, cond, uncond = torch.randn(3, 4, dtype=torch.float64)
    eps = guide((x_t - alpha * cond) / sigma, (x_t - alpha * uncond) / sigma, w)
    torch.testing.assert_close((x_t - sigma * eps) / alpha, guide(cond, uncond, w))


class Linear:
    """Estimates 0.5 x_t + t for the first b rows, which have captions, and -0.2 x_t for more."""

    def __init__(self, rows):
        self.rows = rows
        self.calls = []

    def __call__(self, x_t, t):
        self.calls.append(len(x_t))
        assert len(t) == len(x_t) and t.dtype == torch.float64
        cond = 0.5 * x_t[: self.rows] + t[: self.rows].reshape(-1, 1, 1, 1)
        return torch.cat([cond, -0.2 * x_t[self.rows :]])


@pytest.mark.parametrize("w", [0.0, 0.5, 4.0])
def test_the_guided_estimate_is_made_in_one_call_inside_and_of_half_the_rows_outside(w):
    x_t = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = Linear(3)
    denoise = guided(network, w, (0.25, 0.75))
    t = torch.full((3,), 0.5, dtype=torch.float64)
    cond, uncond = 0.5 * x_t + 0.5, -0.2 * x_t
    expected = uncond + w * (cond - uncond)
    torch.testing.assert_close(denoise(x_t, t), expected, rtol=0, atol=1e-12)
    assert network.calls == [6]
    assert torch.equal(denoise(x_t, t + 0.3), 0.5 * x_t + 0.8)
    assert network.calls == [6, 3]


def test_each_row_is_guided_at_its_own_time():
    x_t = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network, t = Linear(3), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    out = guided(network, 4.0, (0.25, 0.75))(x_t, t)
    expected = 0.5 * x_t + t.reshape(-1, 1, 1, 1)
    expected[1] = 4.0 * expected[1] - 3.0 * (-0.2 * x_t[1])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert network.calls == [6]


def test_guidance_acts_inside_its_interval_only():
    t = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.75, 0.8, 1.0], dtype=torch.float64)
    assert guidance_at(t, 3.0, (0.25, 0.75)).tolist() == [1.0, 1.0, 3.0, 3.0, 3.0, 1.0, 1.0]
    steps = 1.0 - torch.arange(11, dtype=torch.float64) / 10
    assert guidance_at(steps, 3.0, (0.0, 0.3)).tolist() == [1.0] * 7 + [3.0] * 4  # t_7 > 0.3
    assert guidance_at(t, 1.0, (0.0, 1.0)).tolist() == [1.0] * 7
    assert guidance_at(t, 0.0, (0.0, 1.0)).tolist() == [0.0] * 7  # the unconditional model


def test_static_thresholding_clamps():
    x = torch.tensor([-3.0, -0.5, 0.2, 1.5]).reshape(1, 1, 2, 2)
    assert threshold(x, "static").flatten().tolist() == pytest.approx([-1.0, -0.5, 0.2, 1.0])
    assert torch.equal(threshold(x, "none"), x)


def test_dynamic_thresholding_clamps_at_the_percentile_and_rescales():
    values = torch.linspace(-4.0, 4.0, 201, dtype=torch.float64)[None, None, None]
    s = values.abs().flatten().sort().values[round(0.9 * 201) - 1].item()
    expected = values.clamp(-s, s) / s
    torch.testing.assert_close(threshold(values, "dynamic", 0.9), expected)
    assert s == pytest.approx(torch.quantile(values.abs(), 0.9).item(), abs=0.05)
    torch.testing.assert_close(threshold(values, "dynamic", 1.0), values / 4.0)


def test_images_inside_the_range_are_left_alone():
    x = torch.linspace(-1.0, 1.0, 48).reshape(1, 3, 4, 4)
    assert torch.equal(threshold(x, "dynamic", 0.995), x)


def test_every_image_has_its_own_threshold():
    random = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.1, 1.0, 9.0]).reshape(3, 1, 1, 1)
    x = torch.randn(3, 3, 8, 8, generator=random) * scale
    together = threshold(x, "dynamic", 0.95)
    apart = torch.cat([threshold(row[None], "dynamic", 0.95) for row in x])
    assert torch.equal(together, apart)
    assert torch.equal(together[0], x[0])
    assert together[1:].abs().amax((1, 2, 3)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("percentile", [99.5, 1.5, 0.0, -0.1])
def test_a_percentile_that_is_no_fraction_is_refused(percentile):
    with pytest.raises(ValueError, match="fraction"):
        threshold(torch.zeros(1, 3, 2, 2), "dynamic", percentile)


@pytest.mark.parametrize("kind", ["none", "static", "dynamic"])
def test_a_thresholded_denoiser_is_the_threshold_of_its_estimate(kind):
    x_t = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    estimate = 3.0 * x_t + t.reshape(-1, 1, 1, 1)
    out = thresholded(lambda x, u: 3.0 * x + u.reshape(-1, 1, 1, 1), kind, 0.9)(x_t, t)
    assert torch.equal(out, threshold(estimate, kind, 0.9))
    assert torch.equal(out, estimate) == (kind == "none")


def test_overshoot_is_the_share_of_values_beyond_the_margin_since_it_was_taken():
    """One of 12 values beyond [-1, 1] by more than the margin, then three of them."""
    far = 1.0 + 2 * MARGIN
    one, three = torch.full((2, 1, 3, 2, 2), 1.0 + 0.5 * MARGIN)
    one[0, 0, 0, 0], three[0, :, 0, 0] = -far, far
    estimates = iter([one, three, one, one])
    overshoot = Overshoot()
    denoise = overshoot.measured(lambda x_t, t: next(estimates), 2.0)
    assert overshoot.take() == (0.0, 1.0)
    given = [denoise(torch.zeros_like(one), torch.ones(1)) for _ in range(2)]
    assert given[0] is one and given[1] is three
    assert overshoot.take() == pytest.approx(((1 + 3) / 2 / 12, 2.0))
    denoise(one, torch.ones(1))
    assert overshoot.take() == pytest.approx((1 / 12, 2.0))


def test_of_several_scales_the_one_that_burns_most_is_told():
    far = torch.full((1, 3, 2, 2), 1.0 + 2 * MARGIN)
    overshoot = Overshoot()
    for scale, share in ((8.0, 1.0), (1.5, 0.0), (3.0, 0.5)):
        estimate = torch.where(torch.arange(4).reshape(2, 2) < 4 * share, far, 0.0 * far)
        overshoot.measured(lambda x_t, t, found=estimate: found, scale)(far, torch.ones(1))
    assert overshoot.take() == (1.0, 8.0)
