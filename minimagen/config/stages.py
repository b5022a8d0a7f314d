"""One stage of the cascade: a network, a noise process, an objective, a sampler."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from minimagen.checked import Config, Flag, Fraction, PositiveInt
from minimagen.config.networks import UNetConfig
from minimagen.config.sizes import Size
from minimagen.errors import UserError

Prediction = Literal["eps", "x_0", "v"]
SamplerName = Literal["ddpm", "ddim", "dpm++", "heun"]


class ScheduleConfig(Config):
    """The noise schedule: time -> log signal-to-noise ratio."""

    kind: Literal["cosine", "linear"] = "cosine"
    shift: float = 0.0
    """Added to the log-SNR; simple diffusion (arXiv 2301.11093) uses 2 log(64 / side)."""


class LossConfig(Config):
    """The space the error is measured in, its weight over noise levels, and training's times."""

    space: Prediction = "v"
    weight: Literal["simple", "min_snr", "clamped_snr"] = "simple"
    min_snr_gamma: Annotated[float, Field(gt=0.0)] = 5.0
    time_shift: Annotated[float, Field(gt=0.0)] = 1.0
    """Above 1 training sees more noise: its times are uniform ones, shifted (arXiv 2403.03206)."""


class SamplingConfig(Config):
    """How a stage paints; everything here can be changed per call of ``Imagen.sample``."""

    sampler: Annotated[SamplerName, Flag("sa")] = "dpm++"
    """Sampler."""
    timesteps: Annotated[PositiveInt, Flag("t")] = 20
    """Sampling steps; training does not depend on them."""
    eta: Fraction = 0.0
    """DDIM's noise: 0 = deterministic, 1 = the variance of DDPM. Only ddim reads it."""
    guidance_scale: Annotated[float, Field(ge=0.0), Flag("g")] = 1.0
    """Imagen's w: 1 = no guidance."""
    guidance_interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Guidance acts at times t inside this interval; outside, the conditional half is used."""
    thresholding: Literal["none", "static", "dynamic"] = "dynamic"
    dynamic_thresholding_percentile: Annotated[float, Field(gt=0.0, le=1.0)] = 0.995
    """A fraction, not per cent."""
    aug_level: Annotated[Fraction, Flag("al")] = 0.0
    """Noise time of the low-resolution image (super-resolution stages only)."""

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Self:
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval ({low}, {high}) must be (low, high)")
        return self

    def distilled(self, steps: int) -> Self:
        """Return how a stage paints that was distilled to ``steps``."""
        return self.replace(sampler="ddim", timesteps=steps, eta=0.0, guidance_scale=1.0)


class StageConfig(Config):
    """One stage of the cascade: a network, a noise process, an objective, a sampler."""

    unet: UNetConfig
    schedule: ScheduleConfig = ScheduleConfig()
    prediction: Prediction = "v"
    loss: LossConfig = LossConfig()
    cond_drop_prob: Fraction = 0.1
    """Share of captions replaced by the learned null token in training."""
    sampling: SamplingConfig = SamplingConfig()
    aug_level_max: Fraction = 1.0
    """Noise augmentation levels are drawn uniformly from [0, this] in training."""
    crop: PositiveInt | None = None
    """Super-resolution is trained on squares of this side, cut out anywhere; None: on whole
    pictures, as it paints (arXiv 2205.11487, section 2.4: 256 x 256 out of 1024 x 1024). A side
    that is shorter stays whole."""
    distilled_steps: PositiveInt | None = None
    """Learns to paint in so many steps, its teacher's guidance folded in (docs/sampling.md)."""

    @model_validator(mode="after")
    def _paints_as_distilled(self) -> Self:
        self.checked(self.sampling, "the stage")
        return self

    def checked(self, sampling: SamplingConfig, name: str) -> SamplingConfig:
        """Return ``sampling``; a UserError if the stage, called ``name``, cannot paint so."""
        steps = self.distilled_steps
        if steps is not None and sampling != sampling.distilled(steps):
            raise UserError(
                f"{name} is distilled: it paints in {steps} step{'s' * (steps > 1)} of ddim with "
                "guidance_scale 1 (its teacher's is folded in) and nothing else; leave that as it "
                "is, or give one value per stage"
            )
        return sampling

    def distilled(self, steps: int) -> Self:
        """Return the stage that learns to paint in ``steps`` what this one paints.

        Raises:
            UserError: If it cannot be distilled, or not to so many steps.
        """
        if self.prediction == "eps":
            raise UserError(
                "a stage with eps output cannot be distilled: where all is noise eps says nothing "
                "of the picture; train it with v or x_0 output"
            )
        if self.distilled_steps is not None and self.distilled_steps % steps:
            raise UserError(
                f"a stage that was distilled to {self.distilled_steps} steps can teach a divisor "
                f"of them, not {steps}"
            )
        return self.replace(distilled_steps=steps, sampling=self.sampling.distilled(steps))

    def trained_on(self, size: Size, low_res_size: Size | None) -> tuple[Size, Size | None]:
        """Return what is left of pictures of these sizes where training cuts them."""
        if self.crop is None or low_res_size is None:
            return size, low_res_size
        factor = size[0] // low_res_size[0]
        height, width = (min(self.crop, side) for side in size)
        return (height, width), (height // factor, width // factor)
