"""Trajectories equal those of diffusers' schedulers on the same alpha table, in float64."""

import math

import pytest
import torch

from minimagen.diffusion.prediction import to_x_0
from minimagen.diffusion.samplers import DDIM, DDPM, DPMSolverPP, integrate
from minimagen.diffusion.schedule import variance_preserving

diffusers = pytest.importorskip("diffusers")

OUTPUTS = [("v", "v_prediction"), ("x_0", "sample"), ("eps", "epsilon")]
STEPS = 20


class Table:
    """DDPM's discrete schedule: time = an index of the table of alpha_bar, counted from 1."""

    def __init__(self):
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.alpha_bars = torch.cumprod(1.0 - betas, 0)

    def level(self, t):
        bar = self.alpha_bars[t.long() - 1]
        return variance_preserving(torch.log(bar / (1.0 - bar)))


TABLE = Table()


def network(x_t, t):
    return 0.8 * torch.sin(1.7 * x_t + t / 300.0) + 0.1


def start():
    random = torch.Generator().manual_seed(5)
    return torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64)


def noise(i):
    random = torch.Generator().manual_seed(50 + i)
    return torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64)


def ours(step, output, timesteps):
    """Return every x of the trajectory (x_t as the denoiser sees it, and the end)."""
    seen = []

    def denoise(x_t, t):
        seen.append(x_t)
        estimate = network(x_t, t.reshape(-1, 1, 1, 1) - 1)
        return to_x_0(output, estimate, x_t, TABLE.level(t).like(x_t))

    times = torch.cat([timesteps.double() + 1, torch.zeros(1, dtype=torch.float64)])
    last = integrate(step, denoise, start(), times, noise)
    return [*seen, last]


def theirs(scheduler, **options):
    x, seen = start(), []
    for i, t in enumerate(scheduler.timesteps):
        seen.append(x)
        extra = {"variance_noise": noise(i)} if options.get("eta") else {}
        x = scheduler.step(network(x, float(t)), t, x, **options, **extra).prev_sample
    return [*seen, x]


def compare(mine, their):
    assert len(mine) == len(their) == STEPS + 1
    torch.testing.assert_close(torch.stack(mine), torch.stack(their), rtol=0, atol=1e-5)
    assert mine[-1].dtype == torch.float64 and not math.isnan(float(mine[-1].sum()))


@pytest.mark.parametrize(("output", "their_output"), OUTPUTS)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim(output, their_output, eta):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=their_output, clip_sample=False, set_alpha_to_one=True
    )
    scheduler.alphas_cumprod = TABLE.alpha_bars
    scheduler.set_timesteps(STEPS)
    mine = ours(DDIM(TABLE, eta), output, scheduler.timesteps)
    compare(mine, theirs(scheduler, eta=eta))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
# Theirs rounds x to float32, which eps -> x_0 amplifies by 1 / alpha: v and x_0 only.
@pytest.mark.parametrize(("output", "their_output"), OUTPUTS[:2])
def test_dpm_solver_pp_2m(output, their_output):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type=their_output,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(STEPS)
    bars = TABLE.alpha_bars[scheduler.timesteps]  # its own table is float32
    sigmas = torch.sqrt((1.0 - bars) / bars)
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
    mine = ours(DPMSolverPP(TABLE), output, scheduler.timesteps)
    compare(mine, theirs(scheduler))


def test_ddpm(monkeypatch):
    module = "diffusers.schedulers.scheduling_ddpm"
    scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    scheduler.alphas_cumprod = TABLE.alpha_bars
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(STEPS)
    steps = iter(range(STEPS))
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: noise(next(steps)))
    compare(ours(DDPM(TABLE), "v", scheduler.timesteps), theirs(scheduler))
