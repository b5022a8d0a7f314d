"""How a cascade trains."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from minimagen.checked import Config, Flag, Fraction, PositiveInt, Precision
from minimagen.errors import UserError


class StageTrainingConfig(Config):
    """How one stage trains."""

    batch_size: PositiveInt | None = None
    """Images per optimizer step, instead of the run's."""
    optimizer: Annotated[Literal["muon", "adamw"], Flag("op")] = "muon"
    """Optimizer; muon trains the hidden matrices of a network with Muon and the rest with AdamW."""
    optim_lr: Annotated[float, Field(gt=0.0), Flag("lr", also=("learning_rate",))] = 1e-3
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

    batch_size: Annotated[PositiveInt, Flag("b")] = 32
    """Images per optimizer step, of all ranks and micro-batches together."""
    accum_iter: Annotated[PositiveInt, Flag("ai")] = 1
    """Micro-batches per optimizer step."""
    epochs: Annotated[PositiveInt | None, Flag("e")] = None
    """Passes over the training set, instead of steps or minutes."""
    steps: Annotated[
        PositiveInt | tuple[PositiveInt, ...] | None, Flag("st", also=("max_steps", "iterations"))
    ] = None
    """Optimizer steps of every stage, or one number per stage."""
    minutes: Annotated[Annotated[float, Field(gt=0.0)] | None, Flag("m")] = None
    """Time for all stages; the first steps are timed."""
    stages: tuple[StageTrainingConfig, ...] = ()
    """One entry per stage of the cascade."""
    seed: Annotated[int, Field(ge=0), Flag("sd")] = 0
    """Seed of the weights, the data and all noise."""
    precision: Annotated[Precision, Flag("pr")] = "auto"
    """Arithmetic of the networks; auto is bf16 where that is native."""
    num_workers: Annotated[
        Annotated[int, Field(ge=0)] | Literal["auto"], Flag("n", also=("workers",))
    ] = "auto"
    """Data loader workers of each rank; auto chooses by the device, the cores and the data."""
    activation_checkpointing: Annotated[bool, Flag("ac")] = False
    """Activations are computed again in the backward pass: less memory, a third more time."""
    compile: Annotated[bool, Flag("co", also=("torch_compile",))] = False
    """Networks' blocks are compiled (torch.compile): faster steps on a GPU, a slow first one."""
    tracker: Annotated[Literal["none", "tensorboard", "wandb"], Flag("tr")] = "none"
    """Where curves and sample sheets are shown beside the run's own logs."""
    chckpt_num: Annotated[PositiveInt, Flag("cn")] = 500
    """Optimizer steps between checkpoints."""
    keep_checkpoints: Annotated[PositiveInt | Literal["all"], Flag("kc")] = 2
    """Checkpoints that are kept of each stage, the newest ones, or all."""
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
        """Return the images per optimizer step of a stage."""
        return self.stages[stage].batch_size or self.batch_size
