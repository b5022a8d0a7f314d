"""The exact denoiser of a Gaussian mixture: samplers must give back the mixture, at their order.

With p(x_0) = sum_k pi_k N(mu_k, S_k), x_t given k is N(alpha mu_k, C_k = alpha^2 S_k + sigma^2 I),
so E[x_0 | x_t] is known. Points are images [b 2 1 1]; float64.
"""

import math

import pytest
import torch

from minimagen.diffusion.samplers import build_step, integrate
from minimagen.diffusion.schedule import Cosine, build_schedule, sampling_times

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 20_000
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[-0.8, 0.5], [0.9, 0.6], [0.2, -1.0]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [
        [[0.04, 0.02], [0.02, 0.09]],
        [[0.16, 0.0], [0.0, 0.01]],
        [[0.05, -0.03], [-0.03, 0.05]],
    ],
    dtype=torch.float64,
)
MEAN = SHARES @ MEANS
COVARIANCE = (
    torch.einsum("k,kij->ij", SHARES, COVARIANCES)
    + torch.einsum("k,ki,kj->ij", SHARES, MEANS, MEANS)
    - torch.outer(MEAN, MEAN)
)


def oracle(schedule):
    """Return the denoiser E[x_0 | x_t] of the mixture."""

    def denoise(x_t, t):
        log_snr = schedule.log_snr(t[0])
        alpha, variance = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid()
        c = alpha**2 * COVARIANCES + variance * torch.eye(2, dtype=torch.float64)
        away = x_t.flatten(1)[:, None] - alpha * MEANS  # [b k 2]
        inverse = torch.linalg.inv(c)
        whitened = torch.einsum("kij,bkj->bki", inverse, away)
        log_p = SHARES.log() - 0.5 * torch.logdet(c) - 0.5 * (away * whitened).sum(-1)
        per_component = MEANS + alpha * torch.einsum("kij,bkj->bki", COVARIANCES, whitened)
        x_0_hat = torch.einsum("bk,bki->bi", log_p.softmax(1), per_component)
        return x_0_hat.reshape(x_t.shape)

    return denoise


def sample(name, steps, schedule, eta=0.0):
    random = torch.Generator().manual_seed(0)

    def noise(_):
        return torch.randn(COUNT, 2, 1, 1, generator=random, dtype=torch.float64)

    step = build_step(name, schedule, eta)
    x = integrate(step, oracle(schedule), noise(-1), sampling_times(steps), noise)
    return x.flatten(1)


# Standard errors are 0.0057 of a mean, 0.006 of a covariance: 4 of them. Finite steps add a bias
# of up to 0.02 to the covariance where they are of order 1 (measured; it halves with the step).
@pytest.mark.parametrize(
    ("name", "steps", "eta"),
    [
        ("ddpm", 150, 0.0),
        ("ddim", 150, 1.0),
        ("ddim", 80, 0.0),
        ("dpm++", 20, 0.0),
        ("heun", 30, 0.0),
    ],
)
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_every_sampler_recovers_mean_and_covariance(name, steps, eta, kind):
    x = sample(name, steps, build_schedule(kind), eta)
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.024)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, rtol=0, atol=0.035)


def test_the_shares_of_the_components_are_recovered():
    x = sample("dpm++", 40, Cosine())
    nearest = (x[:, None] - MEANS).square().sum(-1).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / COUNT
    torch.testing.assert_close(shares.double(), SHARES, rtol=0, atol=0.02)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1.0), ("dpm++", 2.0), ("heun", 2.0)])
def test_the_error_falls_at_the_order_of_the_sampler(name, order):
    """Equal steps of log-SNR from -4 to 4, the last step to the image the same for all."""
    schedule = Cosine()
    x = torch.linspace(-2.0, 2.0, 32, dtype=torch.float64).reshape(16, 2, 1, 1)

    def end(sampler, steps):
        log_snr = torch.linspace(-4.0, 4.0, steps + 1, dtype=torch.float64)
        times = torch.cat([schedule.time(log_snr), torch.zeros(1, dtype=torch.float64)])
        return integrate(
            build_step(sampler, schedule), oracle(schedule), x, times, noise=pytest.fail
        )

    truth = end("heun", 512)
    errors = [(end(name, n) - truth).square().mean().sqrt().item() for n in (32, 64, 128)]
    measured = math.log2(errors[0] / errors[2]) / 2
    assert measured == pytest.approx(order, abs=0.25), errors
