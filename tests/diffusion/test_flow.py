"""The straight path of a flow, in variance-preserving coordinates, against other people's rules."""

import pytest
import torch

from minimagen.diffusion.prediction import target, to_x_0
from minimagen.diffusion.samplers import DDIM, integrate
from minimagen.diffusion.schedule import Flow, level_at, sampling_times

STEPS = 20


def estimate(x, t):
    """A network in the flow's own coordinates: any smooth function of x and t."""
    return 0.8 * torch.sin(1.7 * x + 3.0 * t) + 0.1


def start():
    random = torch.Generator().manual_seed(5)
    return torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64)


def ours(output, times):
    """Return the end of DDIM, where the network sees x_t scaled back to the flow's."""
    schedule = Flow()

    def denoise(x_t, t):
        level = level_at(schedule, t).like(x_t)
        flow_x = x_t / (level.alpha + level.sigma)
        value = estimate(flow_x, t.reshape(-1, 1, 1, 1))
        return to_x_0(output, value, x_t, level)

    return integrate(DDIM(schedule), denoise, start(), times, lambda i: start())


def clipped_start(times):
    """Return t_0 as the clipped log-SNR has it: 1 - 4.5e-5, where pure noise is 1."""
    return 1.0 / (1.0 + level_at(Flow(), times[:1]).log_snr.div(2).exp())


def test_the_trajectory_is_that_of_diffusers_flow_matching_euler_scheduler():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    times = sampling_times(STEPS)
    scheduler.set_timesteps(sigmas=times[:-1].tolist())
    scheduler.sigmas = times.clone()  # it keeps float32 ones
    scheduler.sigmas[0] = clipped_start(times)
    first = level_at(Flow(), times[:1])
    x = start() / (first.alpha + first.sigma)
    for t, step in zip(times, scheduler.timesteps, strict=False):
        x = scheduler.step(estimate(x, t), step, x, return_dict=False)[0].double()
    torch.testing.assert_close(ours("u", times), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_trajectory_is_that_of_guided_diffusion_keras(power):
    """Its update: x_s = ((t - s) x_0_hat + s x_t) / t, at the levels 1 - (i / n)^(1 / 3)."""
    times = sampling_times(STEPS, power=power)
    assert times[1] == pytest.approx(1.0 - (1.0 / STEPS) ** (1.0 / power))
    first = level_at(Flow(), times[:1])
    x = start() / (first.alpha + first.sigma)
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        x_0_hat = estimate(x, t)
        now = clipped_start(times) if i == 0 else t
        x = ((now - s) * x_0_hat + s * x) / now
    torch.testing.assert_close(ours("x_0", times), x, rtol=0, atol=1e-12)


def test_u_is_the_velocity_of_the_straight_path():
    x_0, eps = torch.tensor([0.7, -1.3], dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (velocity,) = torch.autograd.grad((1 - t) * x_0 + t * eps, t)
    level = Flow().level(t.detach())
    torch.testing.assert_close(target("u", x_0, eps, level), velocity)
