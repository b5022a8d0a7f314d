import itertools

import pytest
import torch

from minimagen.diffusion.loss import (
    loss_weight,
    per_example_squared_error,
    space_weight,
    training_times,
)
from minimagen.diffusion.prediction import add_noise, target, to_eps, to_v, to_x_0
from minimagen.diffusion.schedule import variance_preserving

KINDS = ("eps", "x_0", "v")
PAIRS = list(itertools.product(KINDS, KINDS))
CONVERT = {"eps": to_eps, "x_0": to_x_0, "v": to_v}
LOG_SNR = torch.linspace(-12.0, 12.0, 25, dtype=torch.float64)


@pytest.mark.parametrize(("output", "space"), PAIRS)
def test_a_loss_in_any_space_is_the_weighted_error_of_the_output(output, space):
    random = torch.Generator().manual_seed(0)
    x_0, eps, estimate = torch.randn(3, 25, 3, 2, 2, generator=random, dtype=torch.float64)
    level = variance_preserving(LOG_SNR).like(x_0)
    x_t = add_noise(x_0, eps, level)

    def error(a, b):
        return (a - b).square().flatten(1).mean(1)

    weighted = error(estimate, target(output, x_0, eps, level))
    weighted = weighted * space_weight(output, space, LOG_SNR)
    converted = CONVERT[space](output, estimate, x_t, level)
    measured = error(converted, target(space, x_0, eps, level))
    torch.testing.assert_close(weighted, measured, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        space_weight(output, space, LOG_SNR), loss_weight(output, space, "simple", LOG_SNR)
    )


def test_min_snr_has_its_closed_form_for_every_output():
    snr = LOG_SNR.exp()
    clipped = snr.clamp(max=5.0)
    closed_form = {"x_0": clipped, "eps": clipped / snr, "v": clipped / (snr + 1.0)}
    for output, space in PAIRS:
        weight = loss_weight(output, space, "min_snr", LOG_SNR, 5.0)
        torch.testing.assert_close(weight, closed_form[output], rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_clamped_snr_weighs_the_x_0_error_between_1_and_gamma(gamma):
    snr = LOG_SNR.exp()
    clamped = snr.clamp(min=1.0, max=gamma)
    closed_form = {"x_0": clamped, "eps": clamped / snr, "v": clamped / (snr + 1.0)}
    for output, space in PAIRS:
        weight = loss_weight(output, space, "clamped_snr", LOG_SNR, gamma)
        torch.testing.assert_close(weight, closed_form[output], rtol=1e-12, atol=0)
    silent = loss_weight("x_0", "x_0", "min_snr", LOG_SNR[:1], gamma)
    taught = loss_weight("x_0", "x_0", "clamped_snr", LOG_SNR[:1], gamma)
    assert silent < 1e-5 and taught == 1.0  # near pure noise


@pytest.mark.parametrize("weight", ["simple", "min_snr", "clamped_snr"])
def test_weights_are_finite_at_the_ends_of_the_range_in_float32(weight):
    ends = torch.tensor([-20.0, 20.0])
    for output, space in PAIRS:
        assert torch.isfinite(loss_weight(output, space, weight, ends)).all()


def test_the_error_is_a_mean_per_example():
    output, expected = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    output[1] = 2.0
    assert per_example_squared_error(output.bfloat16(), expected).tolist() == [0.0, 4.0]


def test_shifted_training_times_have_their_closed_form():
    """t / (1 - t) is multiplied by s, so P(t < x) = x / (s - (s - 1) x); 1 changes nothing."""
    uniform = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    assert torch.equal(training_times(uniform, 1.0), uniform)
    t = training_times(uniform, 3.0)
    torch.testing.assert_close(t / (3.0 - 2.0 * t), uniform)
    assert t[50] == 0.75 and t[0] == 0.0 and t[100] == 1.0
