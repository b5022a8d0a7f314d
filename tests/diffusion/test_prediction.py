import itertools

import pytest
import torch

from minimagen.diffusion.prediction import add_noise, target, to_eps, to_v, to_x_0
from minimagen.diffusion.schedule import variance_preserving

KINDS = ("eps", "x_0", "v", "u")
PAIRS = list(itertools.product(KINDS, KINDS))


def to_u(*given):
    return to_eps(*given) - to_x_0(*given)


CONVERT = {"eps": to_eps, "x_0": to_x_0, "v": to_v, "u": to_u}


@pytest.fixture
def process():
    """An image and noise at 81 levels over the whole range of log-SNR, float64."""
    random = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 81, 3, 2, 2, generator=random, dtype=torch.float64)
    log_snr = torch.linspace(-20.0, 20.0, 81, dtype=torch.float64)
    level = variance_preserving(log_snr).like(x_0)
    return x_0, eps, level, add_noise(x_0, eps, level)


@pytest.mark.parametrize(("given", "asked"), PAIRS)
def test_each_prediction_determines_the_others_over_the_whole_range(process, given, asked):
    x_0, eps, level, x_t = process
    value = target(given, x_0, eps, level)
    expected = target(asked, x_0, eps, level)
    # e^10 = sqrt of the largest SNR: how much the worst conversion amplifies rounding
    torch.testing.assert_close(
        CONVERT[asked](given, value, x_t, level), expected, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(("given", "through"), PAIRS)
def test_a_round_trip_of_any_estimate_is_the_identity(process, given, through):
    x_0, _, level, x_t = process
    estimate = torch.randn_like(x_0)  # not only the true value
    middle = CONVERT[through](given, estimate, x_t, level)
    again = CONVERT[given](through, middle, x_t, level)
    torch.testing.assert_close(again, estimate, rtol=0, atol=1e-7)


def test_v_is_the_velocity_of_the_rotation_from_image_to_noise():
    """v = d x / d phi with alpha = cos phi, sigma = sin phi (Salimans & Ho, appendix D)."""
    x_0, eps = torch.tensor([0.7, -1.3], dtype=torch.float64)
    phi = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    (velocity,) = torch.autograd.grad(phi.cos() * x_0 + phi.sin() * eps, phi)
    log_snr = 2 * torch.log(phi.detach().cos() / phi.detach().sin())
    level = variance_preserving(log_snr)
    torch.testing.assert_close(target("v", x_0, eps, level), velocity)


def test_noised_images_have_the_variance_of_the_process():
    level = variance_preserving(torch.tensor(1.3))
    random = torch.Generator().manual_seed(1)
    x_t = add_noise(
        torch.zeros(1, 1, 300, 300), torch.randn(1, 1, 300, 300, generator=random), level
    )
    assert x_t.std().item() == pytest.approx(level.sigma.item(), rel=0.01)
