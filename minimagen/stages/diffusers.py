"""A stage with a pretrained network in diffusers' format: Stable Diffusion, DeepFloyd IF.

Everything else is ours: samplers, guidance, thresholding, seeds, editing, the trainer. The adapter
between the two is the model's own table of noise levels: t <-> log-SNR <-> number of the time.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimagen.autoencoders.autoencoder import Autoencoder
from minimagen.config import DiffusersConfig, Size
from minimagen.device import to_device
from minimagen.diffusion.augmentation import NoisedImages, augment
from minimagen.diffusion.discrete import Discrete, timesteps_of
from minimagen.diffusion.schedule import Level, Schedule
from minimagen.errors import UserError
from minimagen.learner import CaptionReader
from minimagen.networks.diffusers import DiffusersUNet
from minimagen.networks.network import TextStates
from minimagen.stages.diffusion import DiffusionStage, NoiseOf

GRID = 1024  # parts of a time: how exactly float32 has its log-SNR


class DiffusersStage(DiffusionStage):
    """Samples as the model does that its weights come from.

    Args:
        index: Its place in the cascade, from 0.
        config: The network, the noise levels, how it samples.
        size: (height, width) of its images.
        low_res_size: Size of the previous stage's images; None for the first stage.
        text_embed_dim: Width of the text embeddings, both halves.
        autoencoder: Between images and what is denoised; the pixels themselves by default.
        low_res_autoencoder: What the low-resolution images of its training go through.
        folder: Has the network's weights; fresh ones by default.

    Raises:
        UserError: It can only be a first stage, or only a later one, and is the other.
    """

    config: DiffusersConfig
    schedule: Discrete
    aug_schedule: Discrete
    unet: DiffusersUNet

    def __init__(
        self,
        index: int,
        config: DiffusersConfig,
        size: Size,
        low_res_size: Size | None,
        text_embed_dim: int,
        autoencoder: Autoencoder | None = None,
        low_res_autoencoder: Autoencoder | None = None,
        folder: Path | None = None,
    ) -> None:
        if config.unet.enlarges == (low_res_size is None):
            wanted = "enlarges images: put a" if low_res_size is None else "makes images: put no"
            raise UserError(f"stage {index} {wanted} stage before it")
        self._folder = folder
        super().__init__(
            index, config, size, low_res_size, text_embed_dim, autoencoder, low_res_autoencoder
        )

    def _schedules(self) -> tuple[Schedule, Schedule]:
        own = self.config.schedule
        return Discrete(own), Discrete(self.config.aug_schedule or own)

    def _network(self, text_embed_dim: int) -> DiffusersUNet:
        return DiffusersUNet(self.config.unet, text_embed_dim, self._folder)

    @property
    def comes_trained(self) -> bool:
        """Return whether its weights are those of a model."""
        return self.config.model is not None

    def encode_own(self, encoder: CaptionReader) -> None:
        """Encode the empty caption: guidance leads away from it, and training drops captions to it.

        Of the model's own length, without the padding of our batches.
        """
        if self.unet.empty is None:
            empty = encoder.encode([""])[0][None].bfloat16().float()  # as those of batches
            self.unet.empty = empty.to(self.device)

    def times(self, sampling: Any, t: float) -> Tensor:
        """Return the times of the steps from about ``t`` to the end, float64 on the CPU.

        Those of the model's scheduler, or of an equal division of time. From ``t`` below 1 they are
        the last ones of all, as many as the share ``t``, at least one.
        """
        if sampling.spacing == "equal":
            return super().times(sampling, t)
        own, steps = self.config.schedule, sampling.timesteps
        spacing = own.timestep_spacing if sampling.spacing == "own" else sampling.spacing
        every = timesteps_of(
            spacing, steps, self.schedule.count, own.steps_offset, sampling.sampler
        )
        ends_clean = own.set_alpha_to_one or sampling.sampler != "ddim"
        end = torch.tensor([-1.0 if ends_clean else 0.0], dtype=torch.float64)
        return self.schedule.time(torch.cat([every[-max(1, round(t * steps)) :], end]))

    def _noised_low_res(
        self, images: Tensor, aug_level: Tensor, noise: NoiseOf, size: Size
    ) -> NoisedImages:
        """Return images enlarged as IF II does, and only then noised."""
        enlarged = F.interpolate(images, size, mode="bilinear", align_corners=True)
        numbers = to_device(noise(enlarged.shape[1:]), self.device)
        return augment(enlarged, aug_level, numbers, self.aug_schedule)

    def _output(
        self, x_t: Tensor, level: Level, context: TextStates, low_res: NoisedImages | None
    ) -> Tensor:
        """Return the network's prediction, float32."""
        number = _whole(self.schedule.index_of(level.log_snr))
        if low_res is None:
            return self.unet(x_t, number, context).float()
        aug = _whole(self.aug_schedule.index_of(low_res.level.log_snr))
        return self.unet(x_t, number, context, low_res.images, aug).float()


def _whole(number: Tensor) -> Tensor:
    """Return numbers of times, float32, whole where they were: log-SNRs are rounded to float32."""
    return ((number * GRID).round() / GRID).float()
