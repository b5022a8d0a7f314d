"""Progressive distillation: one step of the student for several of the teacher.

arXiv 2202.00512, section 3 and appendix G: the teacher goes from x_t to x_s in small DDIM steps,
and the student learns the x_0 with which a single step from x_t arrives there too. Where the
teacher is guided, guidance is folded in (arXiv 2210.03142, section 3).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minimagen.diffusion.samplers import LogSnr
from minimagen.diffusion.schedule import NoiseLevel, noise_level


def level_at(schedule: LogSnr, t: Tensor, like: Tensor) -> NoiseLevel:
    """Return alpha and sigma at times ``t`` [b] to multiply ``like`` with.

    They are computed in float64. As in the samplers, sigma is 0 at t = 0.
    """
    alpha, sigma = noise_level(schedule.log_snr(t.double()), like.ndim)
    end = (t <= 0.0).reshape(sigma.shape)
    return NoiseLevel(torch.where(end, 1.0, alpha).to(like), torch.where(end, 0.0, sigma).to(like))


def ddim_step(x_t: Tensor, x_0_hat: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """Return x_s = alpha_s x_0_hat + sigma_s eps_hat, each row with its own levels (2010.02502)."""
    keep = then.sigma / now.sigma
    return keep * x_t + (then.alpha - keep * now.alpha) * x_0_hat


def one_step_x_0(x_t: Tensor, x_s: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """Return the x_0_hat with which ``ddim_step`` takes x_t to x_s (2202.00512, appendix G)."""
    keep = then.sigma / now.sigma
    return (x_s - keep * x_t) / (then.alpha - keep * now.alpha)


def taught_x_0(
    estimate: Callable[[Tensor, Tensor], Tensor],
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    steps: int,
    schedule: LogSnr,
) -> Tensor:
    """Return what the student should estimate at ``t`` to arrive at ``s`` where the teacher does.

    Args:
        estimate: The teacher, (x_t, t) -> x_0_hat.
        x_t: [b c h w].
        t: Times of the rows, float64 [b].
        s: Times that they go to, float64 [b], below ``t``.
        steps: The teacher's, equal in time.
        schedule: That of teacher and student.
    """
    x = x_t
    for i in range(steps):
        here, there = torch.lerp(t, s, i / steps), torch.lerp(t, s, (i + 1) / steps)
        levels = level_at(schedule, here, x), level_at(schedule, there, x)
        x = ddim_step(x, estimate(x, here), *levels)
    return one_step_x_0(x_t, x, level_at(schedule, t, x), level_at(schedule, s, x))
