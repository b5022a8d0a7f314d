import pytest
import torch

from minimagen.diffusion.guidance import guidance_at, guide, threshold


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


def test_guidance_acts_inside_its_interval_only():
    t = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.75, 0.8, 1.0], dtype=torch.float64)
    assert guidance_at(t, 3.0, (0.25, 0.75)).tolist() == [1.0, 1.0, 3.0, 3.0, 3.0, 1.0, 1.0]
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


def test_pictures_inside_the_range_are_left_alone():
    x = torch.linspace(-1.0, 1.0, 48).reshape(1, 3, 4, 4)
    assert torch.equal(threshold(x, "dynamic", 0.995), x)


def test_every_sample_has_its_own_threshold():
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
