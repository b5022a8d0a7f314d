import math

import pytest
import torch

from minimagen.diffusion.distillation import one_step_x_0, taught_x_0
from minimagen.diffusion.samplers import DDIM, ddim_step, integrate
from minimagen.diffusion.schedule import Cosine, Linear, level_at, sampling_times

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULES = [Cosine(), Linear(), Cosine(shift=-2.0)]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=["cosine", "linear", "shifted"])


def curved(x_t, t):
    """A denoiser that is linear in nothing; t [b]."""
    return torch.tanh(x_t * (2.0 - t.reshape(-1, 1, 1, 1))) + 0.3 * torch.sin(5.0 * x_t)


def random_images(rows):
    random = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 3, 4, 4, generator=random, dtype=torch.float64)


@schedules
@pytest.mark.parametrize(("steps", "small"), [(1, 2), (1, 7), (4, 1), (4, 3)])
def test_a_perfect_student_samples_in_n_steps_what_its_teacher_does_in_n_k(schedule, steps, small):
    def student(x_t, now):
        then = (now - 1.0 / steps).clamp(min=0.0)
        then = torch.where(then < 1e-12, 0.0, then)
        return taught_x_0(curved, x_t, now, then, small, schedule)

    x = random_images(2)
    few = integrate(DDIM(schedule), student, x, sampling_times(steps), noise=pytest.fail)
    many = integrate(DDIM(schedule), curved, x, sampling_times(steps * small), noise=pytest.fail)
    torch.testing.assert_close(few, many, rtol=0, atol=1e-9)


def test_a_teacher_of_one_step_teaches_its_own_estimate():
    x_t, t = random_images(3), torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    taught = taught_x_0(curved, x_t, t, t - 0.25, 1, SCHEDULES[0])
    torch.testing.assert_close(taught, curved(x_t, t), rtol=0, atol=1e-9)


def test_every_row_is_at_its_own_times():
    x_t, t = random_images(3), torch.tensor([1.0, 0.75, 0.25], dtype=torch.float64)
    together = taught_x_0(curved, x_t, t, t - 0.25, 3, SCHEDULES[0])
    rows = zip(x_t.split(1), t.split(1), strict=True)
    apart = torch.cat([taught_x_0(curved, x, u, u - 0.25, 3, SCHEDULES[0]) for x, u in rows])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


@schedules
def test_a_step_and_the_x_0_that_explains_it_are_inverse(schedule):
    x_t, x_0_hat = random_images(4), random_images(4).flip(1)
    t, s = torch.tensor([[1.0, 0.9, 0.4, 0.2], [0.8, 0.1, 0.3, 0.0]], dtype=torch.float64)
    now, then = (level_at(schedule, time).like(x_t) for time in (t, s))
    x_s = ddim_step(x_t, x_0_hat, now, then)
    torch.testing.assert_close(one_step_x_0(x_t, x_s, now, then), x_0_hat, rtol=0, atol=1e-9)


def test_small_steps_follow_the_probability_flow_of_a_gaussian():
    """x_0 ~ N(m, d^2): the exact flow keeps (x_t - alpha m) / sqrt(alpha^2 d^2 + sigma^2)."""
    m, d, schedule = 0.4, 0.3, SCHEDULES[0]

    def oracle(x_t, t):
        alpha, sigma, _ = level_at(schedule, t).like(x_t)
        return m + alpha * d**2 * (x_t - alpha * m) / (alpha**2 * d**2 + sigma**2)

    x_t = random_images(1)
    t, s = torch.tensor([[0.9], [0.3]], dtype=torch.float64)
    now, then = (level_at(schedule, time).like(x_t) for time in (t, s))
    spread = [
        math.sqrt(float(each.alpha) ** 2 * d**2 + float(each.sigma) ** 2) for each in (now, then)
    ]
    expected = then.alpha * m + spread[1] / spread[0] * (x_t - now.alpha * m)
    errors = []
    for steps in (64, 128):
        x_0_hat = taught_x_0(oracle, x_t, t, s, steps, schedule)
        errors.append(float((ddim_step(x_t, x_0_hat, now, then) - expected).abs().max()))
    assert errors[1] < 2e-2
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)  # DDIM is of order 1
