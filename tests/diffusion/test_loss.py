import itertools
import math

import pytest
import torch

from minimagen.diffusion.loss import (
    loss_weight,
    per_example_error,
    space_weight,
    training_times,
)
from minimagen.diffusion.prediction import add_noise, target, to_eps, to_v, to_x_0
from minimagen.diffusion.schedule import variance_preserving

KINDS = ("eps", "x_0", "v", "u")
PAIRS = list(itertools.product(KINDS, KINDS))


def to_u(*given):
    return to_eps(*given) - to_x_0(*given)


CONVERT = {"eps": to_eps, "x_0": to_x_0, "v": to_v, "u": to_u}
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
    closed_form["u"] = clipped / (1.0 + snr.sqrt()) ** 2
    for output, space in PAIRS:
        weight = loss_weight(output, space, "min_snr", LOG_SNR, 5.0)
        torch.testing.assert_close(weight, closed_form[output], rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_clamped_snr_weighs_the_x_0_error_between_1_and_gamma(gamma):
    snr = LOG_SNR.exp()
    clamped = snr.clamp(min=1.0, max=gamma)
    closed_form = {"x_0": clamped, "eps": clamped / snr, "v": clamped / (snr + 1.0)}
    closed_form["u"] = clamped / (1.0 + snr.sqrt()) ** 2
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
    weight = torch.tensor([1.0, 4.0])
    output, expected = output.bfloat16(), expected.bfloat16()
    assert per_example_error(output, expected, weight).tolist() == [0.0, 16.0]
    assert per_example_error(output, expected, weight, "l1").tolist() == [0.0, 4.0]


def test_hubers_error_is_the_integral_of_a_clipped_slope():
    error = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    output = error.float()[:, None]
    value = per_example_error(output, torch.zeros_like(output), torch.ones(1001), "huber", 0.2)
    slope = value.double().diff() / error.diff()
    middle = (error[1:] + error[:-1]) / 2
    torch.testing.assert_close(slope, (middle / 0.2).clamp(-1, 1), rtol=0, atol=2e-3)
    assert value[500] < 1e-12


def test_logit_normal_times_have_their_distribution():
    """P(t < x) = Phi(logit x); shifted by s, Phi(logit x - log s)."""
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for shift in (1.0, 4.0):
        t = training_times(uniform, shift, "logit_normal")
        again = torch.special.ndtr(torch.logit(t) - math.log(shift))
        torch.testing.assert_close(again, uniform)


def test_half_normal_times_are_a_third_of_the_absolute_value_of_normal_numbers():
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t = training_times(uniform, 1.0, "half_normal")
    torch.testing.assert_close(torch.erf(3.0 * t / math.sqrt(2.0))[:990], uniform[:990])
    assert t.max() == 1.0 and (t > 0.9).double().mean() < 0.008
    assert torch.equal(training_times(torch.zeros(1), 1.0, "half_normal"), torch.zeros(1))


def test_shifted_training_times_have_their_closed_form():
    """t / (1 - t) is multiplied by s, so P(t < x) = x / (s - (s - 1) x); 1 changes nothing."""
    uniform = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    assert torch.equal(training_times(uniform, 1.0), uniform)
    t = training_times(uniform, 3.0)
    torch.testing.assert_close(t / (3.0 - 2.0 * t), uniform)
    assert t[50] == 0.75 and t[0] == 0.0 and t[100] == 1.0
