"""A stage whose network and noise levels are those of a model in diffusers' format."""

from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import ConfigDict, Field, model_validator

from minimagen.checked import Config, Flag, PositiveInt
from minimagen.config.stages import DiffusionConfig, SamplingConfig
from minimagen.errors import UserError

Spacing = Literal["leading", "trailing", "linspace"]
"""Which of a model's times so many steps take (arXiv 2305.08891, table 2)."""
MULTISTEP = ("dpm++", "heun")
"""Samplers that take the times of DPM-Solver++, and end without noise."""


class DiffusersUNetConfig(Config):
    """What diffusers' ``UNet2DConditionModel`` is built from: its keys, as they are."""

    model_config = ConfigDict(extra="allow")

    in_channels: PositiveInt = 4
    """Of x_t, and of the image that is enlarged."""
    out_channels: PositiveInt = 4
    """Of the prediction, and of the variance where it is learned."""
    block_out_channels: tuple[PositiveInt, ...] = (320, 640, 1280, 1280)
    """Of each level; all but the last one halve the sides."""
    cross_attention_dim: int | tuple[int, ...] = 1280
    """Of the text that attention reads."""
    encoder_hid_dim: int | None = None
    """Of the text encoder, where the network projects its embeddings."""
    class_embed_type: str | None = None
    """timestep: it enlarges images, and sees how noisy they are."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        """Accept any key: diffusers knows which there are."""
        return values

    @property
    def enlarges(self) -> bool:
        """Return whether it sees a noised image beside x_t, and how noisy that is (IF II)."""
        return self.class_embed_type == "timestep"

    @property
    def channels(self) -> int:
        """Return the channels of x_t; the output may have those of a variance beside them."""
        return self.in_channels // 2 if self.enlarges else self.in_channels

    @property
    def divisor(self) -> int:
        """Return what both sides of x_t must be divisible by."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def text_width(self) -> int:
        """Return the channels of the embeddings that it reads."""
        width = self.encoder_hid_dim or self.cross_attention_dim
        return width if isinstance(width, int) else width[0]


class BetasConfig(Config):
    """The noise levels of N numbered times, by diffusers' keys."""

    num_train_timesteps: PositiveInt = 1000
    """N."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """Betas, or their roots, in equal steps; or those of a cosine (arXiv 2102.09672)."""
    beta_start: float = 0.0001
    """Beta of the first time."""
    beta_end: float = 0.02
    """Beta of the last time."""
    trained_betas: tuple[float, ...] | None = None
    """The betas themselves."""
    rescale_betas_zero_snr: bool = False
    """The last time is noise alone (arXiv 2305.08891, algorithm 1)."""


class DiscreteScheduleConfig(BetasConfig):
    """Noise levels, and the times that the model is sampled at."""

    timestep_spacing: Spacing = "leading"
    """Which times n steps take (arXiv 2305.08891, table 2)."""
    steps_offset: Annotated[int, Field(ge=0)] = 0
    """Added to the times of ``leading``."""
    set_alpha_to_one: bool = True
    """Whether DDIM's last step ends without noise, or with that of time 0."""


class DiffusersSamplingConfig(SamplingConfig):
    """How a stage of diffusers samples."""

    spacing: Annotated[
        Literal["own", "equal"] | Spacing, Flag("spa", also=("timestep_spacing",))
    ] = "own"
    """Times of a pretrained model's steps: own is what its scheduler has, equal divides time
    evenly, whole numbers or not."""


class DiffusersConfig(DiffusionConfig):
    """A stage of Stable Diffusion or DeepFloyd IF."""

    kind: Literal["diffusers"] = "diffusers"  # type: ignore[assignment]  # narrows the union's tag
    """What kind of stage it is."""
    model: str | None = None
    """Whose weights it has: a folder of diffusers', or a hub id. None: those in the training
    directory."""
    unet: DiffusersUNetConfig  # type: ignore[assignment]  # diffusers' keys instead of ours
    schedule: DiscreteScheduleConfig  # type: ignore[assignment]  # a table instead of a formula
    aug_schedule: BetasConfig | None = None
    """Noise levels of the images that it enlarges."""
    sampling: DiffusersSamplingConfig = DiffusersSamplingConfig()

    @model_validator(mode="after")
    def _enlarges_or_not(self) -> Self:
        if self.unet.enlarges and self.aug_schedule is None:
            raise ValueError("a stage that enlarges images needs the noise levels: aug_schedule")
        return self

    @property
    def own_model(self) -> str | None:
        """Return the model whose weights it comes with, if it does."""
        return self.model

    def owning_weights(self) -> Self:
        """Return the stage once its weights are in a training directory."""
        return self.replace(model=None)

    def checked(self, sampling: SamplingConfig, name: str) -> SamplingConfig:
        """Return ``sampling``; a UserError if the stage, called ``name``, cannot sample so."""
        count = self.schedule.num_train_timesteps
        most = count - (sampling.sampler in MULTISTEP)
        if sampling.timesteps > most:
            raise UserError(
                f"{name} has {count} times, and {sampling.sampler} makes at most {most} steps of "
                f"them: `timesteps` is {sampling.timesteps}"
            )
        return sampling

    def distilled(self, steps: int) -> NoReturn:
        """Raise a UserError: only networks of this project are distilled."""
        raise UserError("a stage of diffusers cannot be distilled; give one that train.py made")
