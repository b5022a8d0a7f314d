"""Progressive distillation: one step of the student for several of the teacher.

arXiv 2202.00512, section 3 and appendix G: the teacher goes from x_t to x_s in small DDIM steps,
and the student learns the x_0 with which a single step from x_t arrives there too. Where the
teacher is guided, guidance is folded in (arXiv 2210.03142, section 3).
"""

import torch
from torch import Tensor

from minimagen.diffusion.samplers import Denoiser, ddim_step
from minimagen.diffusion.schedule import Level, Schedule, level_at


def one_step_x_0(x_t: Tensor, x_s: Tensor, now: Level, then: Level) -> Tensor:
    """Return the x_0_hat with which ``ddim_step`` takes x_t to x_s (2202.00512, appendix G)."""
    keep = then.sigma / now.sigma
    return (x_s - keep * x_t) / (then.alpha - keep * now.alpha)


def taught_x_0(
    denoise: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, steps: int, schedule: Schedule
) -> Tensor:
    """Return what the student should estimate at ``t`` to arrive at ``s`` where the teacher does.

    Args:
        denoise: The teacher.
        x_t: [b c h w].
        t: Times of the rows, float64 [b].
        s: Times that they go to, float64 [b], below ``t``.
        steps: The teacher's, equal in time.
        schedule: That of teacher and student.
    """

    def level(t: Tensor) -> Level:
        return level_at(schedule, t).like(x_t)

    x = x_t
    for i in range(steps):
        here, there = torch.lerp(t, s, i / steps), torch.lerp(t, s, (i + 1) / steps)
        x = ddim_step(x, denoise(x, here), level(here), level(there))
    return one_step_x_0(x_t, x, level(t), level(s))
