"""Every sampler against an independent reference in float64, written from its paper."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from minimagen.config import SamplerName
from minimagen.diffusion.samplers import build_step, integrate, posterior
from minimagen.diffusion.schedule import Cosine, Linear, level_at, sampling_times

STEPS = 9
SCHEDULES = [
    pytest.param(Cosine(), id="cosine"),
    pytest.param(Linear(1.5), id="linear"),
]
samplers = pytest.mark.parametrize("name", get_args(SamplerName))


def denoise(x_t, t):
    """A smooth estimate that depends on the image and on the time: [b], or one number."""
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return torch.tanh(1.3 * x_t + 0.2) * t.cos() + 0.3 * t


def start():
    random = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64)


def noise(i):
    random = torch.Generator().manual_seed(100 + i)
    return torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64)


def alpha_bars(schedule):
    """alpha_t^2 at the sampling times, the last one 1: the chain ends at the estimate itself."""
    log_snr = schedule.log_snr(sampling_times(STEPS)).numpy()
    return np.append((1.0 / (1.0 + np.exp(-log_snr)))[:-1], 1.0)


def run(name, schedule, eta=0.0, callback=None):
    step = build_step(name, schedule, eta)
    return integrate(step, denoise, start(), sampling_times(STEPS), noise, callback)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_is_algorithm_2_of_its_paper(schedule):
    x, bars = start(), alpha_bars(schedule)
    for i, t in enumerate(sampling_times(STEPS)[:-1].tolist()):
        bar, bar_s = bars[i], bars[i + 1]
        alpha = bar / bar_s
        eps = (x - math.sqrt(bar) * denoise(x, t)) / math.sqrt(1 - bar)
        mean = (x - (1 - alpha) / math.sqrt(1 - bar) * eps) / math.sqrt(alpha)
        x = mean + math.sqrt((1 - bar_s) / (1 - bar) * (1 - alpha)) * noise(i)
    torch.testing.assert_close(run("ddpm", schedule), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_equation_12_of_its_paper(schedule, eta):
    x, bars = start(), alpha_bars(schedule)
    for i, t in enumerate(sampling_times(STEPS)[:-1].tolist()):
        bar, bar_s = bars[i], bars[i + 1]
        x_0 = denoise(x, t)
        eps = (x - math.sqrt(bar) * x_0) / math.sqrt(1 - bar)
        sigma = eta * math.sqrt((1 - bar_s) / (1 - bar)) * math.sqrt(1 - bar / bar_s)
        x = math.sqrt(bar_s) * x_0 + math.sqrt(1 - bar_s - sigma**2) * eps + sigma * noise(i)
    torch.testing.assert_close(run("ddim", schedule, eta=eta), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm_solver_pp_is_algorithm_2_of_its_paper(schedule):
    x, bars = start(), alpha_bars(schedule)
    alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
    times = sampling_times(STEPS).tolist()
    old = None
    for i in range(1, STEPS + 1):
        new = denoise(x, times[i - 1])
        h = lam[i] - lam[i - 1]
        d = new
        if 1 < i < STEPS:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * new - 1 / (2 * r) * old
        x = float(sigma[i] / sigma[i - 1]) * x - float(alpha[i] * (np.exp(-h) - 1)) * d
        old = new
    torch.testing.assert_close(run("dpm++", schedule), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_heun_integrates_a_straight_line_through_predictor_and_corrector(schedule):
    """d(x / sigma) = e^lambda x_0_hat d lambda, the integral done by Gauss-Legendre quadrature."""
    bars = alpha_bars(schedule)
    alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
    times = sampling_times(STEPS).tolist()
    nodes, weights = np.polynomial.legendre.leggauss(40)
    x = start()
    for i in range(STEPS - 1):
        first, last = np.log(alpha[i : i + 2] / sigma[i : i + 2])
        slope_0 = denoise(x, times[i])
        guess = (x / sigma[i] + (math.exp(last) - math.exp(first)) * slope_0) * sigma[i + 1]
        slope_1 = denoise(guess, times[i + 1])
        share = (nodes + 1) / 2
        mass = weights / 2 * (last - first) * np.exp(first + share * (last - first))
        gained = mass.dot(1 - share) * slope_0 + mass.dot(share) * slope_1
        x = (x / sigma[i] + gained) * sigma[i + 1]
    torch.testing.assert_close(run("heun", schedule), denoise(x, times[-2]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (0.9, 0.3), (0.5, 0.499), (0.02, 0.01)])
def test_the_posterior_is_bayes_rule_for_gaussians(t, s):
    """Precisions of q(x_s | x_0) and of x_t = a x_s + noise add; means weigh by precision."""
    now, then = (level_at(Cosine(), torch.tensor(time)) for time in (t, s))
    x_t, x_0 = torch.tensor([[0.3, -1.1], [0.8, 0.2]], dtype=torch.float64)
    a = now.alpha / then.alpha
    added = now.sigma**2 - (a * then.sigma) ** 2
    precision = 1 / then.sigma**2 + a**2 / added
    mean, variance = posterior(x_t, x_0, now, then)
    assert float(variance) == pytest.approx(float(1 / precision), rel=1e-7)
    expected = (then.alpha * x_0 / then.sigma**2 + a * x_t / added) / precision
    torch.testing.assert_close(mean, expected, rtol=1e-7, atol=1e-10)


def test_the_posterior_at_the_clean_end_is_the_image_itself():
    x_t, x_0 = torch.randn(2, 5, dtype=torch.float64)
    now, then = (level_at(Cosine(), torch.tensor(time)) for time in (0.3, 0.0))
    mean, variance = posterior(x_t, x_0, now, then)
    assert variance == 0.0
    assert torch.equal(mean, x_0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_1_is_ddpm(schedule):
    torch.testing.assert_close(
        run("ddim", schedule, eta=1.0), run("ddpm", schedule), rtol=0, atol=1e-6
    )


@samplers
def test_the_last_step_lands_on_the_last_estimate(name):
    estimates, steps = [], []

    def report(i, n, x_0_hat):
        steps.append((i, n))
        estimates.append(x_0_hat)

    x = run(name, Cosine(), callback=report)
    assert torch.equal(x, estimates[-1])
    assert steps == [(i, STEPS) for i in range(STEPS)]


@samplers
def test_the_number_of_calls_is_the_stated_one(name):
    calls = []

    def counted(x_t, t):
        calls.append(t)
        return denoise(x_t, t)

    integrate(build_step(name, Cosine()), counted, start(), sampling_times(STEPS), noise)
    assert len(calls) == (2 * STEPS - 1 if name == "heun" else STEPS)


@samplers
@pytest.mark.parametrize("shift", [16.0, -16.0])
def test_steps_inside_the_clipped_range_do_nothing_harmful(name, shift):
    """Two sampling times can share one clipped noise level: a step of length 0."""
    schedule, times = Cosine(shift), sampling_times(60)
    log_snr = schedule.log_snr(times)[:-1]
    assert (log_snr.diff() == 0).any()
    x = integrate(build_step(name, schedule), denoise, start(), times, noise)
    assert torch.isfinite(x).all()
    assert x.abs().max() < 2.0


@samplers
def test_one_step_is_the_estimate_from_pure_noise(name):
    x = integrate(build_step(name, Cosine()), denoise, start(), sampling_times(1), noise)
    assert torch.equal(x, denoise(start(), 1.0))


@samplers
def test_images_keep_their_dtype_and_every_row_is_at_the_same_time_in_float64(name):
    seen = []

    def single(x_t, t):
        seen.append(t)
        return denoise(x_t, t).float()

    x, times = start().float(), sampling_times(STEPS)
    out = integrate(build_step(name, Cosine(), 0.5), single, x, times, lambda i: noise(i).float())
    assert out.dtype == torch.float32
    assert all(t.dtype == torch.float64 and t.shape == (2,) and t[0] == t[1] for t in seen)
    assert {float(t[0]) for t in seen} == set(times[:-1].tolist())


def test_noise_is_drawn_by_the_steps_that_add_some_and_by_their_numbers():
    for name, eta, expected in [
        ("ddpm", 0.0, list(range(STEPS - 1))),
        ("ddim", 0.5, list(range(STEPS - 1))),
        ("ddim", 0.0, []),
        ("dpm++", 0.5, []),
        ("heun", 0.5, []),
    ]:
        drawn = []

        def recorded(i, drawn=drawn):
            drawn.append(i)
            return noise(i)

        step = build_step(name, Cosine(), eta)
        integrate(step, denoise, start(), sampling_times(STEPS), recorded)
        assert drawn == expected, name


def test_a_step_remembers_the_estimate_before_it_and_its_time():
    remembered = []

    def step(denoise, x, t, s, memory, noise):
        remembered.append(memory)
        return x + s, denoise(x, t.expand(len(x)))

    times = sampling_times(3)
    out = integrate(step, denoise, start(), times, noise)
    torch.testing.assert_close(out, start() + 1.0, rtol=0, atol=1e-12)  # 2/3 + 1/3 + 0
    assert remembered[0] is None and [m.t for m in remembered[1:]] == [times[0], times[1]]
    assert torch.equal(remembered[1].x_0_hat, denoise(start(), 1.0))
