"""A stage that samples in few steps what its trained self samples in many."""

import torch
from torch import Tensor

from minimagen.autoencoders.autoencoder import Autoencoder
from minimagen.config import DistilledConfig, LossConfig, Size
from minimagen.device import to_device
from minimagen.diffusion.distillation import taught_x_0
from minimagen.diffusion.prediction import add_noise, to_eps
from minimagen.diffusion.schedule import level_at
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.stages.diffusion import DiffusionStage

LOSS = LossConfig(space="x_0", weight="clamped_snr")
"""The truncated SNR of arXiv 2202.00512: pure noise, where the SNR is 0, is one of few times."""


class DistilledStage(DiffusionStage):
    """Learns from a trained stage with the same network; samples like any other stage.

    It knows only the times of its own steps. Its teacher's guidance is part of what it learned: one
    call of the network a step.
    """

    def __init__(
        self,
        index: int,
        config: DistilledConfig,
        size: Size,
        low_res_size: Size | None,
        text_embed_dim: int,
        autoencoder: Autoencoder | None = None,
        low_res_autoencoder: Autoencoder | None = None,
    ) -> None:
        super().__init__(
            index, config, size, low_res_size, text_embed_dim, autoencoder, low_res_autoencoder
        )
        self.steps = config.steps
        self._teacher: tuple[DiffusionStage, ...] = ()  # in a tuple: no module of this one

    def learn_from(self, teacher: DiffusionStage) -> None:
        """Make ``loss`` the distance to ``teacher``, whose weights stay as they are."""
        self._teacher = (teacher.eval().requires_grad_(False),)

    def error_ratio(self, batch: Batch, draws: Draws) -> float | None:
        """Return None: it learns from its teacher, and knows the times of its steps only."""
        return None

    def nearest_time(self, t: float) -> float:
        """Return the time of the step nearest to ``t``, at least the last one's: it knows these."""
        return max(1, round(t * self.steps)) / self.steps

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss of every example, float32 [b].

        Real images are noised to the time of one of the steps, drawn per example. What the teacher
        makes of them until the next one takes the place of x_0.

        Raises:
            UserError: If there is no teacher, see ``learn_from``.
        """
        if not self._teacher:
            raise UserError(f"stage {self.index} is to be distilled and has no teacher")
        (teacher,) = self._teacher
        x_0, low_res = self._example(batch, draws)
        step = (draws.stratified("time") * self.steps).floor()
        t, s = 1.0 - step / self.steps, 1.0 - (step + 1.0) / self.steps
        eps = to_device(draws.normal("noise", x_0.shape[1:]), self.device)
        level = level_at(self.schedule, t).like(x_0)
        x_t = add_noise(x_0, eps, level)
        text = (batch.text_embeds, batch.text_mask)
        with torch.no_grad():
            sampling = teacher.config.sampling
            denoise = teacher.denoiser(*text, low_res, sampling)
            small_steps = -(-sampling.timesteps // self.steps)
            x_0_hat = taught_x_0(denoise, x_t, t, s, small_steps, self.schedule)
        context = self.unet.encode_text(*text, torch.zeros_like(batch.text_mask[:, 0]))
        eps_hat = to_eps("x_0", x_0_hat, x_t, level)
        rows = self.schedule.level(t).map(lambda each: to_device(each, x_0.device, x_0.dtype))
        output = self._output(x_t, rows, context, low_res)
        return self._weighted_error(output, x_0_hat, eps_hat, rows, LOSS)
