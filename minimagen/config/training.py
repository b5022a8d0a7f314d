"""How a cascade trains."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from minimagen.checked import Config, Flag, Fraction, PositiveInt, Precision
from minimagen.errors import UserError


class LearnerTrainingConfig(Config):
    """How one learner trains: CLIP, an autoencoder, a stage."""

    batch_size: PositiveInt | None = None
    """Images per optimizer step, instead of the run's."""
    optimizer: Annotated[Literal["muon", "adamw"], Flag("op")] = "muon"
    """Optimizer; muon trains the hidden matrices of a network with Muon and the rest with AdamW."""
    optim_lr: Annotated[float, Field(gt=0.0), Flag("lr", also=("learning_rate", "rate"))] = 1e-3
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Optimizer steps in which the learning rate rises to its peak."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Of the weights of matrices, per unit of learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """AdamW's; the first is Muon's momentum too."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradients with a larger norm are scaled down to it."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Of the averaged weights, which sample: the part that each step keeps."""
    share: Annotated[float, Field(gt=0.0)] = 1.0
    """This learner's share of MINUTES, relative to the others."""


def with_learners(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of ``TrainingConfig`` with today's names: ``learners`` were ``stages``."""
    old = "stages" in values and "learners" not in values
    return {("learners" if old and key == "stages" else key): v for key, v in values.items()}


UNKNOWN = 10**9
"""The steps of a learner before any was timed."""


class Revision(Config):
    """The plan of a learner that follows the clock, as it was made after ``step`` steps."""

    step: Annotated[int, Field(ge=0)]
    """The optimizer step after which it was made."""
    steps: PositiveInt
    """Those of the whole learner; equal to ``step`` once it has ended."""
    spent: Fraction
    """Share of the time for steps that is spent."""
    seconds: Annotated[float, Field(ge=0.0)]
    """The learner's so far."""
    threads: PositiveInt | None = None
    """Those of the steps from there on, where they follow the cores that are free."""

    @property
    def ended(self) -> bool:
        """Return whether the learner had ended."""
        return self.step == self.steps


Minutes = Annotated[float, Field(gt=0.0)]


class SourceConfig(Config):
    """The trained cascade whose weights a run started from."""

    directory: str
    """Its training directory, as it was typed."""
    fingerprint: str
    """SHA-256 of these weights."""
    stages: tuple[int, ...]
    """The places of the learners that it had; others started at random."""


class TrainingConfig(Config):
    """How a cascade trains. Exactly one of epochs, steps and minutes is given."""

    batch_size: Annotated[PositiveInt, Flag("b", also=("train_batch_size", "bs"))] = 32
    """Images per optimizer step, of all ranks and micro-batches together."""
    accum_iter: Annotated[
        PositiveInt, Flag("ai", also=("gradient_accumulation_steps", "gradient_accumulate_every"))
    ] = 1
    """Micro-batches per optimizer step."""
    epochs: Annotated[
        PositiveInt | None, Flag("e", also=("num_train_epochs", "max_train_epochs"))
    ] = None
    """Passes over the training set, instead of steps or minutes."""
    steps: Annotated[
        PositiveInt | tuple[PositiveInt, ...] | None,
        Flag("st", also=("max_train_steps", "num_train_steps", "max_steps", "iterations")),
    ] = None
    """Optimizer steps of every learner, or one number each, such as 700,150."""
    minutes: Annotated[Minutes | tuple[Minutes, ...] | None, Flag("m")] = None
    """Time for all learners, or for each; on resume it is added to what is left."""
    revisions: tuple[tuple[Revision, ...], ...] = ()
    """What a run by the clock made of ``minutes``, for each learner; one that ended so is trained
    by them again, without the clock."""
    learners: tuple[LearnerTrainingConfig, ...] = ()
    """One entry per learner, in the order of training: CLIP, autoencoders, stages."""
    seed: Annotated[int, Field(ge=0), Flag("sd")] = 0
    """Seed of the weights, the data and all noise."""
    precision: Annotated[Precision, Flag("pr", also=("mixed_precision", "dtype"))] = "auto"
    """Arithmetic of the networks; auto is bf16 where that is native."""
    num_workers: Annotated[
        Annotated[int, Field(ge=0)] | Literal["auto"],
        Flag("n", also=("workers", "dataloader_num_workers", "max_data_loader_n_workers")),
    ] = "auto"
    """Data loader workers of each rank; auto chooses by the device, the cores and the data."""
    activation_checkpointing: Annotated[bool, Flag("ac", also=("gradient_checkpointing",))] = False
    """Activations are computed again in the backward pass: less memory, a third more time."""
    compile: Annotated[bool, Flag("co", also=("torch_compile",))] = False
    """Networks' blocks are compiled (torch.compile): faster steps on a GPU, a slow first one."""
    tracker: Annotated[
        Literal["none", "tensorboard", "wandb"], Flag("tr", also=("report_to", "log_with"))
    ] = "none"
    """Where curves and sample sheets are shown beside the run's own logs."""
    chckpt_num: Annotated[
        PositiveInt, Flag("cn", also=("checkpointing_steps", "save_every_n_steps", "save_steps"))
    ] = 500
    """Optimizer steps between checkpoints, each with a validation."""
    keep_checkpoints: Annotated[
        PositiveInt | Literal["all"],
        Flag("kc", also=("checkpoints_total_limit", "save_total_limit", "save_last_n_steps")),
    ] = 2
    """Checkpoints that are kept of each learner, the newest ones, or all."""
    sample_num: Annotated[
        PositiveInt, Flag("sn", also=("sample_every_n_steps", "validation_steps", "sample_every"))
    ] = 500
    """Optimizer steps between sample sheets."""
    sample_captions: tuple[str, ...] = ()
    """Captions of the sample sheets; some of the validation images' where there are none."""
    source: SourceConfig | None = None
    """What the run started from, where that is no random weights; the run itself sets it."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, values: Any) -> Any:
        return with_learners(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [n for n in ("epochs", "steps", "minutes") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of epochs, steps and minutes, given {given or 'none'}"
            )
        if self.revisions and len(self.revisions) != len(_several(self.minutes)):
            raise ValueError("revisions need minutes for each of their learners")
        for size in (self.batch_size, *(learner.batch_size for learner in self.learners)):
            if size is not None and size % self.accum_iter:
                raise ValueError(
                    f"batch_size {size} is not divisible by accum_iter {self.accum_iter}"
                )
        return self

    def for_learners(self, count: int) -> Self:
        """Return the configuration with one entry of ``learners`` for each of ``count``.

        Raises:
            UserError: If it has neither none, one for all, nor one each.
        """
        if len(self.learners) not in (0, 1, count):
            raise UserError(
                f"training.json: learners has {len(self.learners)} entries for the {count} that "
                "are trained (CLIP, autoencoders, stages); give one entry each, or a single one "
                "for all"
            )
        if len(self.learners) == count:
            return self
        return self.replace(learners=(self.learners or ({},)) * count)

    def batch_size_of(self, learner: int) -> int:
        """Return the images per optimizer step of a learner."""
        return self.learners[learner].batch_size or self.batch_size

    def steps_of(self, learner: int) -> int | None:
        """Return the optimizer steps of a learner; None before they are known."""
        if self.revisions:
            planned = self.revisions[learner][-1:]
            return planned[0].steps if planned and planned[0].ended else None
        return self.steps[learner] if isinstance(self.steps, tuple) else self.steps

    def divided(self, chosen: Sequence[int]) -> tuple[float, ...]:
        """Return the minutes of every learner.

        They are for the ``chosen`` learners together. Another one gets what its share would be
        beside them, for a run that trains it later.

        Raises:
            UserError: There is not one number for each learner.
        """
        assert self.minutes is not None
        if isinstance(self.minutes, tuple):
            if len(self.minutes) != len(self.learners):
                raise UserError(
                    f"`minutes` has {len(self.minutes)} entries for {len(self.learners)} learners"
                )
            return self.minutes
        together = sum(self.learners[i].share for i in chosen)
        return tuple(self.minutes * learner.share / together for learner in self.learners)

    def extended(self, minutes: float | tuple[float, ...], chosen: Sequence[int]) -> Self:
        """Return the configuration of a run that goes on with so many minutes more.

        Raises:
            UserError: There is not one number for each learner.
        """
        added = self.replace(steps=None, epochs=None, minutes=minutes, revisions=()).divided(chosen)
        if not self.revisions:
            ends = [None if i in chosen else 60 * each for i, each in enumerate(added)]
            made = [self._by_steps(i, seconds) for i, seconds in enumerate(ends)]
            kept = made if any(made) else ()
            return self.replace(steps=None, epochs=None, minutes=added, revisions=kept)
        total, revisions = list(self.divided(chosen)), list(self.revisions)
        for i in chosen:
            before, total[i] = total[i], total[i] + added[i]
            if revisions[i] and revisions[i][-1].ended:
                again = {"steps": UNKNOWN, "spent": before / total[i]}
                revisions[i] = (*revisions[i], revisions[i][-1].replace(**again))
        return self.replace(minutes=total, revisions=revisions)

    def _by_steps(self, learner: int, seconds: float | None) -> tuple[Revision, ...]:
        """Return the steps of a learner as revisions, where they are known.

        One that has ended, its time ``seconds``, stays so; another one goes on from there.
        """
        steps = self.steps_of(learner)
        if not steps:
            return ()
        begun = Revision(step=0, steps=steps, spent=0.0, seconds=0.0)
        if seconds is None:
            return (begun,)
        return begun, Revision(step=steps, steps=steps, spent=1.0, seconds=seconds)


def _several(minutes: float | tuple[float, ...] | None) -> tuple[float, ...]:
    return minutes if isinstance(minutes, tuple) else ()
