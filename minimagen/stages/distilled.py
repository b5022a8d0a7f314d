"""A stage that paints in few steps what its trained self paints in many."""

import torch
from torch import Tensor

from minimagen.config import LossConfig
from minimagen.diffusion.distillation import level_at, taught_x_0
from minimagen.diffusion.prediction import add_noise, to_eps
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.stages.diffusion import DiffusionStage

LOSS = LossConfig(space="x_0", weight="clamped_snr")
"""The truncated SNR of arXiv 2202.00512: pure noise, where the SNR is 0, is one of few times."""


class DistilledStage(DiffusionStage):
    """Learns from a trained stage of the same network; paints like any other stage.

    It only knows the times of its own steps, and paints with its teacher's guidance at no price:
    one call of the network a step.
    """

    _teacher: tuple[DiffusionStage, ...] = ()  # in a tuple: its weights are not this stage's

    @property
    def steps(self) -> int:
        """Return in how many steps it paints."""
        assert self.config.distilled_steps is not None
        return self.config.distilled_steps

    def learn_from(self, teacher: DiffusionStage) -> None:
        """Let ``loss`` measure what is missing of ``teacher``, whose weights stay as they are."""
        self._teacher = (teacher.eval().requires_grad_(False),)

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss of every example, float32 [b].

        Real pictures are noised to the time of one of the steps, drawn per example. What the
        teacher makes of them until the next one takes the place of x_0.

        Raises:
            UserError: If there is nobody to ``learn_from``.
        """
        if not self._teacher:
            raise UserError(f"stage {self.index} is to be distilled and has no teacher")
        (teacher,) = self._teacher
        x_0, low_res, aug_log_snr = self._example(batch, draws)
        step = (draws.stratified("time") * self.steps).floor()
        t, s = 1.0 - step / self.steps, 1.0 - (step + 1.0) / self.steps
        eps = draws.normal("noise", x_0.shape[1:]).to(self.device)
        level = level_at(self.schedule, t, x_0)
        x_t = add_noise(x_0, eps, level)
        text = (batch.text_embeds, batch.text_mask)
        with torch.no_grad():
            sampling = teacher.config.sampling
            estimate = teacher.estimator(*text, low_res, aug_log_snr, sampling)
            small_steps = -(-sampling.timesteps // self.steps)
            x_0_hat = taught_x_0(estimate, x_t, t, s, small_steps, self.schedule)
        context = self.unet.encode_text(*text, torch.zeros_like(batch.text_mask[:, 0]))
        log_snr = self.schedule.log_snr(t).to(x_0)
        output = self._output(x_t, log_snr, context, low_res, aug_log_snr)
        eps_hat = to_eps("x_0", x_0_hat, x_t, level)
        return self._weighted_error(output, x_0_hat, eps_hat, log_snr, LOSS)
