"""The checked configuration: what a cascade is, how it trains, on what data.

Every value is checked when it is read, every unknown key is an error that names the nearest valid
one, and nothing changes after construction. Keys keep the names known from MinImagen and
imagen-pytorch where the thing is the same; new things have the papers' names.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from minimagen.checked import Config, Fraction, PositiveInt
from minimagen.errors import UserError

Prediction = Literal["eps", "x_0", "v"]
SamplerName = Literal["ddpm", "ddim", "dpm++", "heun"]
Size = tuple[int, int]  # (height, width) in pixels


class UNetConfig(Config):
    """One U-Net: the base network or Imagen's Efficient U-Net (``memory_efficient``)."""

    dim: PositiveInt
    """Channels of the first level; level i has dim * dim_mults[i]."""
    dim_mults: tuple[PositiveInt, ...] = Field(min_length=1)
    channels: PositiveInt = 3
    num_resnet_blocks: PositiveInt | tuple[PositiveInt, ...] = 1
    layer_attns: bool | tuple[bool, ...] = False
    """Levels with self-attention."""
    layer_cross_attns: bool | tuple[bool, ...] = True
    """Levels with attention to the text; keys join the self-attention's where both are on."""
    attend_at_middle: bool = True
    attn_heads: PositiveInt = 8
    attn_head_dim: PositiveInt = 64
    cond_dim: PositiveInt | None = None
    """Width of the text tokens inside the network; ``dim`` by default."""
    memory_efficient: bool = False
    """Efficient U-Net: down-sample first in each level, skips scaled by 1/sqrt 2."""
    patch_size: PositiveInt = 1
    """Side of the pixel-unshuffle stem: the network works on (h / p) x (w / p)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        for name in ("num_resnet_blocks", "layer_attns", "layer_cross_attns"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.dim_mults):
                raise ValueError(
                    f"{name} has {len(value)} entries, dim_mults has {len(self.dim_mults)}: "
                    "give one entry per level, or a single value"
                )
        return self

    def per_level(self, name: str) -> tuple[Any, ...]:
        """Return field ``name`` as one value per level."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * len(self.dim_mults)

    @property
    def divisor(self) -> int:
        """Return what the sides of a picture must be divisible by."""
        halvings = len(self.dim_mults) - (0 if self.memory_efficient else 1)
        return self.patch_size * 2**halvings


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

    sampler: SamplerName = "dpm++"
    timesteps: PositiveInt = 20
    """Number of sampling steps; training times are continuous and do not depend on it."""
    eta: Fraction = 0.0
    """DDIM's noise: 0 = deterministic, 1 = the variance of DDPM. Only ddim reads it."""
    guidance_scale: Annotated[float, Field(ge=0.0)] = 1.0
    """Imagen's w: 1 = no guidance."""
    guidance_interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Guidance acts at times t inside this interval; outside, the conditional half is used."""
    thresholding: Literal["none", "static", "dynamic"] = "dynamic"
    dynamic_thresholding_percentile: Annotated[float, Field(gt=0.0, le=1.0)] = 0.995
    """A fraction, not per cent."""
    aug_level: Fraction = 0.0
    """Noise time of the low-resolution picture (super-resolution stages only)."""

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


class ImagenConfig(Config):
    """The whole cascade."""

    image_sizes: tuple[Size, ...] = Field(min_length=1)
    """(height, width) of every stage's pictures; a single number means a square."""
    text_encoder_name: str = "t5_mini"
    max_num_words: PositiveInt = 64
    """Longest caption in tokens; longer ones are cut."""
    stages: tuple[StageConfig, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _square_sizes(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("image_sizes"), list | tuple):
            sizes = [(s, s) if isinstance(s, int) else s for s in values["image_sizes"]]
            values = values | {"image_sizes": sizes}
        return values

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if len(self.image_sizes) != len(self.stages):
            raise ValueError(
                f"image_sizes has {len(self.image_sizes)} entries for {len(self.stages)} stages"
            )
        for i, (size, stage) in enumerate(zip(self.image_sizes, self.stages, strict=True)):
            check_size(size, stage.unet.divisor, i)
            if stage.unet.channels != 3:
                raise ValueError(
                    f"stage {i}: unet.channels is {stage.unet.channels}; pictures are RGB, give 3"
                )
        for low, high in zip(self.image_sizes, self.image_sizes[1:], strict=False):
            if low[0] >= high[0] or low[1] >= high[1]:
                raise ValueError(f"image_sizes must grow from stage to stage, given {low}, {high}")
        for i, stage in enumerate(self.stages):
            if stage.crop is not None:
                self._check_crop(i, stage.crop)
        return self

    def _check_crop(self, i: int, crop: int) -> None:
        """Raise ValueError unless a crop of stage ``i`` is one of the stage before as well."""
        if i == 0:
            raise ValueError(f"stage 0: crop is {crop}, but only super-resolution crops; give null")
        sizes = zip(self.image_sizes[i], self.image_sizes[i - 1], strict=True)
        factors = [high / low for high, low in sizes]
        if factors[0] != factors[1] or factors[0] % 1:
            raise ValueError(
                f"stage {i}: crops need sizes that grow by one whole factor, "
                f"here {factors[0]:g} and {factors[1]:g}; give null for crop"
            )
        step = math.lcm(self.stages[i].unet.divisor, int(factors[0]))
        if crop % step:
            raise ValueError(f"stage {i}: crop is {crop}, must be a multiple of {step}")


def check_size(size: Size, divisor: int, stage: int) -> None:
    """Raise ValueError unless both sides are positive multiples of ``divisor``."""
    if any(side < 1 or side % divisor for side in size):
        raise ValueError(
            f"stage {stage}: {size[0]} x {size[1]} pixels is not divisible by {divisor} "
            f"(its U-Net's levels and patch_size); use multiples of {divisor}"
        )


class StageTrainingConfig(Config):
    """How one stage trains."""

    batch_size: PositiveInt | None = None
    """Pictures per optimizer step, instead of the run's."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """``muon``: Muon for the hidden matrices of the network, AdamW for the rest."""
    optim_lr: Annotated[float, Field(gt=0.0)] = 1e-3
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """AdamW's; the first is Muon's momentum too."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    share: Annotated[float, Field(gt=0.0)] = 1.0
    """This stage's share of MINUTES, relative to the others."""


class TrainingConfig(Config):
    """How a cascade trains. Exactly one of epochs, steps and minutes is given."""

    batch_size: PositiveInt = 32
    """Pictures per optimizer step, accumulation included."""
    accum_iter: PositiveInt = 1
    """Micro-batches per optimizer step."""
    epochs: PositiveInt | None = None
    steps: PositiveInt | tuple[PositiveInt, ...] | None = None
    """Optimizer steps of every stage, or one number per stage."""
    minutes: Annotated[float, Field(gt=0.0)] | None = None
    stages: tuple[StageTrainingConfig, ...] = ()
    """One entry per stage of the cascade."""
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_workers: Annotated[int, Field(ge=0)] = 0
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Where curves and sample sheets are shown beside the run's own logs."""
    chckpt_num: PositiveInt = 500
    """Optimizer steps between checkpoints."""
    sample_num: PositiveInt = 500
    """Optimizer steps between sample sheets."""
    sample_captions: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [n for n in ("epochs", "steps", "minutes") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of epochs, steps and minutes, given {given or 'none'}"
            )
        for size in (self.batch_size, *(stage.batch_size for stage in self.stages)):
            if size is not None and size % self.accum_iter:
                raise ValueError(
                    f"batch_size {size} is not divisible by accum_iter {self.accum_iter}"
                )
        return self

    def for_stages(self, count: int) -> Self:
        """Return the configuration with one entry of ``stages`` for each of ``count`` stages.

        Raises:
            UserError: If it has neither none, one for all, nor one each.
        """
        if len(self.stages) not in (0, 1, count):
            raise UserError(
                f"training.json: stages has {len(self.stages)} entries for {count} stages of the "
                "cascade; give one entry each, or a single one for all"
            )
        if len(self.stages) == count:
            return self
        return self.replace(stages=(self.stages or ({},)) * count)

    def batch_size_of(self, stage: int) -> int:
        """Return the pictures per optimizer step of a stage."""
        return self.stages[stage].batch_size or self.batch_size


class DataConfig(Config):
    """What a cascade trains on."""

    dataset: str = "shapes"
    """``shapes``, ``shapes:scenes``, or what ``load_dataset`` takes."""
    caption_column: str = "text"
    """Where the captions are, in data with columns."""
    crop: Literal["centre", "random"] = "centre"
    """Of training pictures whose aspect ratio is not that of the last stage."""
    aspect_buckets: bool = False
    """Train on pictures of other aspect ratios in (nearly) their own, each batch of one size."""
    flip: bool = False
    """Mirror every second training picture; captions that say left and right then lie."""
    streaming: bool = False
    """Read parquet files and the hub while training instead of before."""
    epoch_size: PositiveInt = 8192
    """Pictures that count as one epoch of the endless embedded data."""
    train_valid_frac: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """Training share where the data has no split of its own."""
    valid_num: PositiveInt = 512
    max_samples: PositiveInt | None = None
    """Train on so many pictures only, drawn at random; all by default."""
    seed: Annotated[int, Field(ge=0)] = 0
