"""A model's numbered times as a schedule of continuous time, beside diffusers' schedulers."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from minimagen.config import BetasConfig
from minimagen.diffusion.discrete import Discrete, alphas_cumprod_of, timesteps_of
from minimagen.diffusion.samplers import build_step, integrate

# of diffusers' scheduler
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
TABLES: dict[str, dict[str, Any]] = {
    "stable diffusion": {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    },
    "linear": {},
    "if": {"beta_schedule": "squaredcos_cap_v2"},
    "few": {"num_train_timesteps": 30, "beta_end": 0.3},
    "its own": {"num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 0.4]},
}  # fmt: skip
SPACINGS = ("leading", "trailing", "linspace")


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TABLES[request.param]


def test_the_table_is_that_of_diffusers_to_the_bit(table: dict[str, Any]) -> None:
    theirs = DDIMScheduler(**table).alphas_cumprod.double()
    assert torch.equal(alphas_cumprod_of(BetasConfig(**table)), theirs)


def test_log_snr_to_number_and_back_is_exact(table: dict[str, Any]) -> None:
    schedule = Discrete(BetasConfig(**table))
    log_snr = torch.linspace(*schedule.log_snr(torch.tensor([0.0, schedule.count - 1.0])), 4001)
    there = schedule.index_of(log_snr)
    assert (there.diff() < 0).all() or (there.diff() > 0).all()
    torch.testing.assert_close(schedule.log_snr(there), log_snr.double(), rtol=0, atol=1e-6)
    t = schedule.time(there)
    torch.testing.assert_close(schedule.level(t).log_snr, log_snr.double(), rtol=0, atol=1e-6)


def test_whole_numbers_have_the_levels_of_the_table(table: dict[str, Any]) -> None:
    schedule = Discrete(BetasConfig(**table))
    number = torch.arange(schedule.count, dtype=torch.float64)
    level = schedule.level(schedule.time(number))
    squares = alphas_cumprod_of(BetasConfig(**table))
    torch.testing.assert_close(level.alpha**2, squares, rtol=1e-12, atol=0)
    torch.testing.assert_close(level.sigma**2, 1.0 - squares, rtol=1e-12, atol=0)


def test_beyond_the_ends_of_the_table_its_ends_hold() -> None:
    schedule = Discrete(BetasConfig())
    low, first, last = schedule.level(torch.tensor([0.0, 0.001, 1.0], dtype=torch.float64)).log_snr
    assert low == first > last
    assert schedule.index_of(torch.tensor([99.0, -99.0])).tolist() == [0.0, 999.0]


def test_zero_terminal_snr_ends_in_noise_alone() -> None:
    config = BetasConfig(rescale_betas_zero_snr=True)
    ours = alphas_cumprod_of(config)
    theirs = DDIMScheduler(rescale_betas_zero_snr=True).alphas_cumprod.double()
    assert ours[-1] == 0.0
    torch.testing.assert_close(ours[0], alphas_cumprod_of(BetasConfig())[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    end = Discrete(config).level(torch.ones(1, dtype=torch.float64))
    assert end.alpha < 1e-8 and end.sigma == 1.0  # Stable Diffusion's own ends at alpha = 0.068
    own = Discrete(BetasConfig(**TABLES["stable diffusion"])).level(torch.ones(1))
    assert float(own.alpha) == pytest.approx(0.0683, abs=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_the_numbers_of_steps_are_those_of_diffusers(spacing: Any, sampler: str) -> None:
    kind = DDIMScheduler if sampler == "ddim" else DPMSolverMultistepScheduler
    for steps in (2, 3, 7, 10, 30, 50, 333):
        for offset in (0, 1):
            scheduler = kind(timestep_spacing=spacing, steps_offset=offset)
            scheduler.set_timesteps(steps)
            found = timesteps_of(spacing, steps, 1000, offset, sampler)
            assert found.tolist() == scheduler.timesteps.tolist(), (steps, offset)


def test_no_step_leaves_the_table() -> None:
    for spacing in SPACINGS:
        for sampler, steps in (("dpm++", 1), ("dpm++", 500), ("dpm++", 999), ("ddim", 1000)):
            found = timesteps_of(spacing, steps, 1000, 0, sampler)
            assert len(found) == steps and found.max() <= 999 and found.min() >= 0
            assert (found[1:] < found[:-1]).all(), (spacing, sampler, steps)


def eps_of(x: Tensor) -> Tensor:
    """A network that is not linear, in float64."""
    return (1.7 * x).sin() + 0.3 * x


@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [("dpm++", each) for each in SPACINGS] + [("ddim", "leading"), ("ddim", "trailing")],
)
def test_the_trajectory_is_that_of_diffusers_scheduler(spacing: Any, sampler: Any) -> None:
    """With linspace, diffusers' DDIM goes from 999 to 899 where its next time is 888."""
    table = TABLES["stable diffusion"]
    kind: Any = DDIMScheduler if sampler == "ddim" else DPMSolverMultistepScheduler
    own = {"clip_sample": False} if sampler == "ddim" else {}
    scheduler = kind(**table, **own, timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    wanted = x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for number in scheduler.timesteps:
        wanted = scheduler.step(eps_of(wanted), number, wanted).prev_sample
    schedule = Discrete(BetasConfig(**table))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        level = schedule.level(t).like(x_t)
        return (x_t - level.sigma * eps_of(x_t)) / level.alpha

    every = timesteps_of(spacing, 10, 1000, 0, sampler)
    times = schedule.time(torch.cat([every, every.new_tensor([-1.0])]))
    found = integrate(build_step(sampler, schedule), denoise, x, times, lambda i: torch.zeros(1))
    torch.testing.assert_close(found, wanted.double(), rtol=1e-5, atol=1e-5)
