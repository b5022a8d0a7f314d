"""The kinds of stages that are trained here; ``kinds.py`` has the union of all."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import Field, field_serializer, model_validator

from minimagen.checked import Config, Flag, Fraction, PositiveInt
from minimagen.config.networks import GPTConfig, UNetConfig
from minimagen.config.sizes import Size
from minimagen.errors import UserError

Prediction = Literal["eps", "x_0", "v", "u"]
SamplerName = Literal["ddpm", "ddim", "dpm++", "heun"]
Thresholding = Literal["none", "static", "dynamic"]
LossWeight = Literal["simple", "min_snr", "clamped_snr"]
ErrorKind = Literal["l2", "l1", "huber"]
TrainingTimes = Literal["uniform", "logit_normal", "half_normal"]


class ScheduleConfig(Config):
    """The noise schedule: time -> log signal-to-noise ratio."""

    kind: Literal["cosine", "linear", "flow"] = "cosine"
    """flow is x_t = (1 - t) x_0 + t eps (rectified flow, arXiv 2209.03003), rescaled to
    alpha^2 + sigma^2 = 1."""
    shift: float = 0.0
    """Added to the log-SNR; simple diffusion (arXiv 2301.11093) uses 2 log(64 / side)."""


class LossConfig(Config):
    """The space the error is measured in, its weight over noise levels, and training's times."""

    space: Prediction = "v"
    """eps, x_0, v = alpha eps - sigma x_0, or u = eps - x_0, the velocity of a flow."""
    error: ErrorKind = "l2"
    """Squared, absolute, or Huber's: squared below ``huber_delta``, absolute above."""
    huber_delta: Annotated[float, Field(gt=0.0)] = 0.1
    """Where Huber's error turns from squared to absolute."""
    weight: LossWeight = "simple"
    """Weight over noise levels: simple weighs all alike in ``space``, min_snr the x_0 error by
    min(snr, gamma) (arXiv 2303.09556), clamped_snr also by 1 at least."""
    min_snr_gamma: Annotated[float, Field(gt=0.0)] = 5.0
    """The gamma of min_snr and clamped_snr."""
    times: TrainingTimes = "uniform"
    """How training's times are drawn: logit_normal is the sigmoid of a standard normal number
    (arXiv 2403.03206), half_normal is |N| / 3 (guided-diffusion-keras)."""
    time_shift: Annotated[float, Field(gt=0.0)] = 1.0
    """Above 1 training sees more noise: its times are shifted (arXiv 2403.03206)."""
    time_shift_end: Annotated[float, Field(gt=0.0)] | None = None
    """The shift at the end of training, where it falls or rises geometrically from ``time_shift``:
    content is learned first, at high noise, and details last. None: it stays as it is."""

    def time_shift_at(self, progress: float) -> float:
        """Return the shift after a share ``progress`` in [0, 1] of the training."""
        if self.time_shift_end is None:
            return self.time_shift
        return float(self.time_shift ** (1.0 - progress) * self.time_shift_end**progress)


MOST_STEPS = 100_000


class SamplingConfig(Config):
    """How a diffusion stage samples; ``Imagen.sample`` can change everything here per call."""

    sampler: Annotated[
        SamplerName | Callable[..., Any], Flag("sa", also=("scheduler", "sampler_name"))
    ] = "dpm++"
    """Sampler."""
    timesteps: Annotated[
        PositiveInt,
        Field(le=MOST_STEPS),
        Flag("t", also=("num_inference_steps", "sample_steps", "steps")),
    ] = 20
    """Sampling steps; training does not depend on them."""
    time_power: Annotated[float, Field(gt=0.0)] = 1.0
    """The times of n steps are 1 - (i / n)^(1 / this): 1 makes steps equal, above 1 they are larger
    in noise."""
    eta: Fraction = 0.0
    """DDIM's noise: 0 = deterministic, 1 = the variance of DDPM. Only ddim reads it."""
    guidance_scale: Annotated[
        float, Field(ge=0.0), Flag("g", also=("cond_scale", "cfg", "cfg_scale"))
    ] = 1.0
    """Imagen's w: 1 = no guidance."""
    guidance_interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Guidance acts at times t inside this interval; outside, the conditional half is used."""
    thresholding: Annotated[Thresholding, Flag("th")] = "dynamic"
    """How estimates are brought back into the range of images: static clamps, dynamic scales."""
    dynamic_thresholding_percentile: Annotated[
        float, Field(gt=0.0, le=1.0), Flag("tp", also=("percentile", "thresholding_percentile"))
    ] = 0.995
    """Percentile of dynamic thresholding, a fraction: 0.995, not 99.5."""
    aug_level: Annotated[Fraction, Flag("al")] = 0.0
    """Noise time of the low-resolution image (super-resolution stages only)."""

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Self:
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval ({low}, {high}) must be (low, high)")
        return self

    @field_serializer("sampler")
    def _name_of(self, sampler: Any) -> str:
        return sampler if isinstance(sampler, str) else sampler.__name__

    def distilled(self, steps: int) -> Self:
        """Return how a stage samples that was distilled to ``steps``."""
        return self.replace(
            sampler="ddim", timesteps=steps, time_power=1.0, eta=0.0, guidance_scale=1.0
        )


class DiffusionConfig(Config):
    """A diffusion stage: a network, a noise process, an objective, a sampler."""

    kind: Literal["diffusion"] = "diffusion"
    """What kind of stage it is."""
    unet: UNetConfig
    autoencoder: Annotated[int, Field(ge=0)] | str | None = None
    """What it denoises the latents of: the number of an autoencoder of this cascade, a training
    directory, a folder of diffusers' or a hub id; None: pixels."""
    schedule: ScheduleConfig = ScheduleConfig()
    prediction: Prediction = "v"
    """What the network's output is: eps, x_0, v = alpha eps - sigma x_0, or u = eps - x_0."""
    loss: LossConfig = LossConfig()
    cond_drop_prob: Fraction = 0.1
    """Share of captions replaced by the learned null token in training."""
    sampling: SamplingConfig = SamplingConfig()
    aug_level_max: Fraction = 1.0
    """Noise augmentation levels are drawn uniformly from [0, this] in training."""
    crop: PositiveInt | None = None
    """Super-resolution is trained on squares of this side, cut out anywhere; None: on whole images,
    as it samples (arXiv 2205.11487, section 2.5: 256 x 256 out of 1024 x 1024). A side that is
    shorter stays whole."""

    reconstructed_low_res: bool = False
    """In training the low-resolution image goes through the autoencoder of the stage before, as it
    has in sampling, so that super-resolution learns to add what is lost there."""

    @model_validator(mode="after")
    def _sees_rgb(self) -> Self:
        if self.autoencoder is None and self.unet.channels != 3:
            raise ValueError(f"unet.channels is {self.unet.channels}; images are RGB, give 3")
        return self

    @property
    def latent_channels(self) -> int:
        """Return the channels of what it denoises."""
        return self.unet.channels

    @property
    def own_model(self) -> str | None:
        """Return the model whose weights it comes with; None for what is trained here."""
        return None

    def owning_weights(self) -> Self:
        """Return the stage once its weights are in a training directory."""
        return self

    @property
    def distilled_steps(self) -> int | None:
        """Return in how many steps a distilled stage samples; None for a stage that is not."""
        return None

    @property
    def divisor(self) -> int:
        """Return what both sides of an image must be divisible by."""
        return self.unet.divisor

    def checked(self, sampling: SamplingConfig, name: str) -> SamplingConfig:
        """Return ``sampling``; a UserError if the stage, called ``name``, cannot sample so."""
        return sampling

    def distilled(self, steps: int) -> "DistilledConfig":
        """Return the stage that learns to sample in ``steps`` steps what this one samples.

        Raises:
            UserError: If it cannot be distilled.
        """
        sampling = self.sampling.distilled(steps).model_dump()
        values = self.model_dump() | {"kind": "distilled", "steps": steps, "sampling": sampling}
        return DistilledConfig.read(values, "the distilled stage")

    def trained_on(self, size: Size, low_res_size: Size | None) -> tuple[Size, Size | None]:
        """Return the sizes of what training cuts out of images of these sizes."""
        if self.crop is None or low_res_size is None:
            return size, low_res_size
        factor = size[0] // low_res_size[0]
        height, width = (min(self.crop, side) for side in size)
        return (height, width), (height // factor, width // factor)


class DistilledConfig(DiffusionConfig):
    """A stage that learns to sample in few steps what its trained self samples in many."""

    kind: Literal["distilled"] = "distilled"  # type: ignore[assignment]  # narrows the union's tag
    """What kind of stage it is."""
    steps: PositiveInt
    """Sampling steps, its teacher's guidance folded in (docs/sampling.md)."""

    @model_validator(mode="before")
    @classmethod
    def _default_sampling(cls, values: Any) -> Any:
        if isinstance(values, dict) and "sampling" not in values and "steps" in values:
            values = values | {"sampling": SamplingConfig().distilled(values["steps"])}
        return values

    @property
    def distilled_steps(self) -> int:
        """Return in how many steps the stage samples."""
        return self.steps

    @model_validator(mode="after")
    def _says_something_of_pure_noise(self) -> Self:
        if self.prediction == "eps":
            raise ValueError(
                "a stage with eps output cannot be distilled: eps says nothing of the image where "
                "all is noise; train it with v or x_0 output"
            )
        return self

    @model_validator(mode="after")
    def _samples_as_distilled(self) -> Self:
        self.checked(self.sampling, "the stage")
        return self

    def checked(self, sampling: SamplingConfig, name: str) -> SamplingConfig:
        """Return ``sampling``; a UserError if the stage, called ``name``, cannot sample so."""
        if sampling != sampling.distilled(self.steps):
            raise UserError(
                f"{name} is distilled: it samples in {self.steps} step{'s' * (self.steps > 1)} of "
                "ddim with guidance_scale 1 (its teacher's is folded in) and nothing else; leave "
                "that as it is, or give one value per stage"
            )
        return sampling

    def distilled(self, steps: int) -> "DistilledConfig":
        """Return the stage that learns to sample in fewer steps still.

        Raises:
            UserError: If ``steps`` is no divisor of this stage's.
        """
        if self.steps % steps:
            raise UserError(
                f"a stage that was distilled to {self.steps} steps can teach a divisor of them, "
                f"not {steps}"
            )
        return super().distilled(steps)


class TokenSamplingConfig(Config):
    """How a token stage samples; ``Imagen.sample`` can change everything here per call."""

    guidance_scale: Annotated[float, Field(ge=0.0)] = 2.0
    """Imagen's w, of the logits: 1 = no guidance."""
    temperature: Annotated[float, Field(ge=0.0), Flag("tm")] = 1.0
    """Of tokens: below 1 likely ones become more so; 0 = always the most likely one."""
    top_k: Annotated[int, Field(ge=0), Flag("tk")] = 0
    """Only so many of the most likely tokens; 0 = all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0), Flag("pp")] = 1.0
    """Only the most likely tokens that together have this probability."""


class TokenConfig(Config):
    """A first stage that predicts the tokens of images one by one (arXiv 2102.12092)."""

    kind: Literal["tokens"] = "tokens"
    """What kind of stage it is."""
    gpt: GPTConfig = GPTConfig()
    autoencoder: Annotated[int, Field(ge=0)] | str = 0
    """The discrete one between images and tokens: its number here, or a training directory."""
    cond_drop_prob: Fraction = 0.1
    """Share of captions replaced by the learned null token in training."""
    token_drop_prob: Fraction = 0.1
    """Share of the tokens read in training that are replaced by random ones."""
    sampling: TokenSamplingConfig = TokenSamplingConfig()

    @property
    def crop(self) -> None:
        """Return None: it sees whole images."""
        return None

    @property
    def distilled_steps(self) -> None:
        """Return None: it is not distilled."""
        return None

    @property
    def reconstructed_low_res(self) -> bool:
        """Return False: it enlarges nothing."""
        return False

    @property
    def divisor(self) -> int:
        """Return 1: what sides must be divisible by is the autoencoder's factor."""
        return 1

    @property
    def latent_channels(self) -> None:
        """Return None: it has tokens, not channels."""
        return None

    @property
    def own_model(self) -> None:
        """Return None: it is trained here."""
        return None

    def owning_weights(self) -> Self:
        """Return itself: its weights are in its training directory."""
        return self

    def distilled(self, steps: int) -> NoReturn:
        """Raise a UserError: a token stage has no steps."""
        raise UserError("a stage of tokens cannot be distilled: it has no sampling steps")

    def trained_on(self, size: Size, low_res_size: Size | None) -> tuple[Size, Size | None]:
        """Return the sizes of what training cuts out of images of these sizes: all of it."""
        return size, low_res_size
