import itertools
import math

import pytest
import torch

from minimagen.diffusion.schedule import (
    BETA_MAX,
    BETA_MIN,
    LOG_SNR_LIMIT,
    Cosine,
    Linear,
    build_schedule,
    level_at,
    resolution_shift,
    sampling_times,
    variance_preserving,
)

SCHEDULES = [
    pytest.param(build_schedule(kind, shift), id=f"{kind}{shift:+g}")
    for kind, shift in itertools.product(("cosine", "linear", "flow"), (0.0, 2.77, -5.5))
]
TIMES = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_process_preserves_variance(schedule):
    alpha, sigma, log_snr = schedule.level(TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-15)
    torch.testing.assert_close(log_snr, 2.0 * torch.log(alpha / sigma), rtol=0, atol=1e-12)
    assert torch.equal(log_snr, schedule.log_snr(TIMES))


def test_levels_are_shaped_to_multiply_images_and_take_their_dtype():
    level, images = Cosine().level(TIMES[:4]), torch.zeros(4, 3, 2, 2)
    for own, shaped in zip(level, level.like(images), strict=True):
        assert shaped.shape == (4, 1, 1, 1) and shaped.dtype == torch.float32
        assert torch.equal(shaped.flatten(), own.float())
    alone = variance_preserving(torch.tensor(0.3)).like(images)
    assert alone.sigma.shape == (1, 1, 1, 1)  # one level for all


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_chain_ends_without_noise_and_is_in_float64_everywhere(schedule, dtype):
    t = torch.tensor([0.0, 0.25, 1.0], dtype=dtype)
    level, plain = level_at(schedule, t), schedule.level(t.double())
    assert [float(each[0]) for each in level] == [1.0, 0.0, math.inf]
    for own, other in zip(level, plain, strict=True):
        assert own.dtype == torch.float64
        assert torch.equal(own[1:], other[1:])
    assert float(level_at(schedule, t[0]).sigma) == 0.0
    assert level.like(torch.zeros(3, 1)).sigma.shape == (3, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_falls_with_time_and_stays_inside_its_limits(schedule):
    log_snr = schedule.log_snr(TIMES)
    inside = log_snr.abs() < LOG_SNR_LIMIT
    assert inside.sum() > 1900
    assert (log_snr[inside].diff() < 0).all()
    assert (log_snr.diff() <= 0).all()
    assert log_snr.abs().max() <= LOG_SNR_LIMIT


@pytest.mark.parametrize("kind", ["cosine", "linear", "flow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_finite_in_every_precision(kind, dtype):
    ends = build_schedule(kind).log_snr(torch.tensor([0.0, 1.0], dtype=dtype))
    assert ends[0] == LOG_SNR_LIMIT
    assert -LOG_SNR_LIMIT <= ends[1] < -10
    assert torch.isfinite(build_schedule(kind).log_snr(torch.rand(1000, dtype=dtype))).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_is_the_exact_inverse_inside_the_clipping(schedule):
    log_snr = schedule.log_snr(TIMES)
    inside = log_snr.abs() < LOG_SNR_LIMIT
    torch.testing.assert_close(schedule.time(log_snr)[inside], TIMES[inside], rtol=0, atol=1e-12)
    again = schedule.log_snr(schedule.time(log_snr))
    torch.testing.assert_close(again[inside], log_snr[inside], rtol=0, atol=1e-9)


def test_cosine_is_nichol_and_dhariwals_squared_cosine():
    t = TIMES[1:-1]
    alpha = Cosine().level(t).alpha
    torch.testing.assert_close(alpha**2, torch.cos(math.pi / 2 * t) ** 2, rtol=1e-12, atol=1e-15)


def _distance_to_discrete_betas(n):
    """max |alpha_bar| difference to DDPM's table of n betas (1e-4 ... 0.02 at n = 1000)."""
    betas = torch.linspace(BETA_MIN / n, BETA_MAX / n, n, dtype=torch.float64)
    table = torch.cumprod(1.0 - betas, 0)
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    alpha = Linear().level(t).alpha
    return (alpha**2 - table).abs().max().item()


def test_linear_is_the_limit_of_ddpms_betas():
    assert _distance_to_discrete_betas(1000) < 5e-3
    assert _distance_to_discrete_betas(100_000) < 5e-5
    ratio = _distance_to_discrete_betas(1000) / _distance_to_discrete_betas(10_000)
    assert 9 < ratio < 11  # the distance falls like 1 / n


def test_the_shift_scales_the_snr_with_the_area_of_the_image():
    plain, shifted = Cosine(), Cosine(resolution_shift(256))
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    ratio = torch.exp(shifted.log_snr(t) - plain.log_snr(t))
    torch.testing.assert_close(ratio, torch.full_like(t, (64 / 256) ** 2))
    assert resolution_shift(64) == 0.0


def test_sampling_times_fall_from_noise_to_image_in_equal_steps():
    times = sampling_times(7)
    assert times[0] == 1.0 and times[-1] == 0.0 and len(times) == 8
    torch.testing.assert_close(times.diff(), torch.full((7,), -1 / 7, dtype=torch.float64))
