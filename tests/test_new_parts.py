"""New kinds of parts, made here and handed to ``Imagen`` as objects: the package is not touched."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minimagen import Imagen, ImagenConfig, TrainingConfig, train
from minimagen.config import DiffusionConfig
from minimagen.diffusion.samplers import Denoiser, Memory
from minimagen.diffusion.schedule import Schedule, level_at
from minimagen.draws import Draws, Noise
from minimagen.images import Batch, resize_clamped, to_model_space
from minimagen.sample import Sample
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.stage import Callback, Condition, Stage, Start
from minimagen.storage.checkpoint import load_weights
from minimagen.text.encoding import TokenReport

pytestmark = pytest.mark.usefixtures("one_thread")
UNET = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 1, "attn_head_dim": 8}
FP32: dict[str, Any] = {"precision": "fp32"}
CONFIG = ImagenConfig(
    image_sizes=(8, 16), stages=(DiffusionConfig(unet=UNET, prediction="x_0"),) * 2
)


class BlurSettings(NamedTuple):
    brightness: float = 0.0


class MeanStage(Stage[BlurSettings]):
    """A stage kind that is no diffusion: the text gives one color, with a little of the noise."""

    def __init__(self, index: int, size: tuple[int, int], embed_dim: int) -> None:
        super().__init__()
        self.name, self.size, self.image_sizes = f"unet_{index}", size, (size,)
        self.color = nn.Linear(embed_dim, 3)

    def _colors(self, embeds: Tensor, mask: Tensor) -> Tensor:
        weights = mask[..., None].float()
        return self.color((embeds * weights).sum(1) / weights.sum(1))

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        wanted = to_model_space(batch.images).mean((2, 3))
        return (self._colors(batch.text_embeds, batch.text_mask) - wanted).square().mean(1)

    def settings(self, **changes: Any) -> BlurSettings:
        return BlurSettings(**changes)

    def sample(
        self,
        condition: Condition,
        noise: Noise,
        sampling: BlurSettings,
        start: Start | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        colors = self._colors(condition.text_embeds, condition.text_mask) + sampling.brightness
        grain = 0.01 * noise("grain", (3, *(condition.size or self.size)))
        return (colors[:, :, None, None] + grain).clamp(-1.0, 1.0)


class LetterEncoder:
    """A text encoder: every letter is a one-hot token."""

    name, embed_dim, fingerprint = "letters", 27, "letters 1"

    def to(self, device: torch.device | str) -> "LetterEncoder":
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        return [torch.eye(27)[self._ids(caption)] for caption in captions]

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        return [TokenReport(len(caption), False) for caption in captions]

    def notes(self) -> list[str]:
        return []

    def _ids(self, caption: str) -> list[int]:
        return [max(0, min(26, ord(letter) - 96)) for letter in caption.lower()] or [0]


class Flags:
    """A data set of one's own: plain red and blue images."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Sample:
        image = np.zeros((16, 16, 3), np.uint8)
        image[..., 2 * (index % 2)] = 255
        return Sample(image, ("red", "blue")[index % 2])


def one_leap(schedule: Schedule) -> Callable[..., tuple[Tensor, Tensor]]:
    """A sampler: each step keeps the estimate and takes the sign of the noise that is left."""

    def step(
        denoise: Denoiser,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: Memory | None,
        noise: Callable[[], Tensor],
    ) -> tuple[Tensor, Tensor]:
        now, then = level_at(schedule, t), level_at(schedule, s)
        x_0_hat = denoise(x, t.expand(len(x)))
        sign = ((x - now.alpha * x_0_hat) / now.sigma).sign()
        return then.alpha * x_0_hat + then.sigma * sign, x_0_hat

    return step


@pytest.fixture
def cascade() -> Imagen:
    """A new kind of base stage and text encoder, followed by our own super-resolution."""
    torch.manual_seed(0)
    base = MeanStage(0, (8, 8), LetterEncoder.embed_dim)
    enlarge = DiffusionStage(1, CONFIG.stages[1], (16, 16), (8, 8), LetterEncoder.embed_dim)
    return Imagen(CONFIG, LetterEncoder(), stages=[base, enlarge])


def test_a_new_kind_of_stage_and_encoder_samples_and_is_followed_by_super_resolution(
    cascade: Imagen,
):
    samplings = [BlurSettings(0.5), cascade.stages[1].settings(timesteps=2, thresholding="none")]
    low, high = next(cascade.sample_batches(["a red star", "blue"], samplings, [1, 2], **FP32))
    assert low.shape == (2, 3, 8, 8) and high.shape == (2, 3, 16, 16)
    dark = next(cascade.sample_batches(["a red star"], [BlurSettings()], [1], **FP32))[0]
    assert torch.allclose(dark + 0.5, low[:1], atol=1e-5)  # its own settings, its own seed
    # a fresh super-resolution network of ours adds nothing: what remains is the enlarged image
    torch.testing.assert_close(high, resize_clamped(low, (16, 16)), rtol=0, atol=5e-3)


def test_a_new_kind_of_stage_and_encoder_trains_with_the_same_trainer(
    cascade: Imagen, tmp_path: Path
):
    config = TrainingConfig(steps=60, batch_size=8, learners=[{"optim_lr": 0.1, "ema_decay": 0.5}])
    directory = train(cascade, Flags(), config, output=tmp_path / "run", stages=[0])
    red, blue = next(cascade.sample_batches(["red", "blue"], [BlurSettings()], [1, 2], **FP32))[0]
    assert red[0].mean() > 0.5 and red[2].mean() < -0.5
    assert blue[0].mean() < -0.5 and blue[2].mean() > 0.5
    saved = load_weights(directory.weights("unet_0")).tensors
    assert saved.keys() == {"color.weight", "color.bias"}


def test_a_new_sampler_is_a_function_that_makes_every_step(cascade: Imagen):
    stage, low_res = cascade.stages[1], torch.zeros(1, 3, 8, 8)
    seen: list[tuple[float, float]] = []

    def watched(schedule: Schedule) -> Callable[..., tuple[Tensor, Tensor]]:
        step = one_leap(schedule)
        return lambda denoise, x, t, s, *rest: seen.append((t, s)) or step(denoise, x, t, s, *rest)

    own = stage.settings(sampler=watched, timesteps=4, thresholding="none")
    options = FP32 | {"first": 1, "low_res": low_res}
    (sampled,) = next(cascade.sample_batches(["blue"], [own], [3], **options))
    assert seen == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]
    assert torch.allclose(sampled, torch.zeros(1, 3, 16, 16), atol=5e-3)  # a silent network's x_0
    assert own.model_dump()["sampler"] == "watched"
