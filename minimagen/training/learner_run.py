"""The training of one learner: its steps, and what is due after them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from PIL.Image import Image
from torch import Tensor

from minimagen.advice import Losses, many_epochs, memorizing, undertrained
from minimagen.config.training import UNKNOWN
from minimagen.data.dataset import count_of
from minimagen.device import autocast
from minimagen.draws import Draws
from minimagen.images import to_pil
from minimagen.storage.image_files import contact_sheet
from minimagen.training.clock import StageClock
from minimagen.training.forecast import Forecast, duration, length
from minimagen.training.interruption import Interrupted, StopSignals
from minimagen.training.plan import ON_SHEET, Plan
from minimagen.training.saving import Keeper
from minimagen.training.tracking import Bar, Tracker
from minimagen.training.trainer import NonFiniteLossError

READ_EVERY = 10  # steps between two looks at the losses, for which the host waits for a GPU
METRICS_EVERY = 50  # steps between lines of metrics.jsonl


class OutOfMemory(Exception):
    """The device has not enough memory for a step; checkpoints before it are unharmed."""


class LearnerRun:
    """Trains one learner; all ranks do, and rank 0 writes.

    Args:
        index: Its place among the learners.
        plan: What the run trains.
        keeper: Saves and restores.
        tracker: Reports.
        signals: Whether the run is to stop.
        forecast: Knows how long the run takes.
        clock: What the steps follow, where they are not known.
    """

    def __init__(
        self,
        index: int,
        plan: Plan,
        keeper: Keeper,
        tracker: Tracker,
        signals: StopSignals,
        forecast: Forecast,
        clock: StageClock | None = None,
    ) -> None:
        self.index, self.plan, self.clock, self.forecast = index, plan, clock, forecast
        self.learner = plan.imagen.learners[index]
        self.title = plan.imagen.config.title(index)
        self.keeper, self.tracker, self.signals = keeper, tracker, signals
        self.trainer = plan.trainer(index, self.learner, plan.steps[index])
        self.trainer.revisions = list(plan.revisions(index))
        self._look = 0  # the step after which the clock is looked at
        self._losses: list[Losses] = []  # at the checkpoints
        self._warned: set[str] = set()
        self._expected = False

    def train(self) -> float:
        """Train from the newest checkpoint, or from the start, to the end.

        Returns:
            The seconds of the learner, by the clock that its steps follow.

        Raises:
            Interrupted: After a signal to any rank, with everything saved.
            NonFiniteLossError: If the loss is no longer a finite number.
            OutOfMemory: If a step needs more memory than the device has.
        """
        try:
            return self._train()
        except NonFiniteLossError as error:
            if error.intact:
                self._save()
            good = "the weights before it are saved" if error.intact else "see the last checkpoint"
            self.tracker.log(f"stopped: {error} ({good})")
            raise
        except torch.OutOfMemoryError:
            raise OutOfMemory(self._too_large()) from None

    def _train(self) -> float:
        if self.keeper.restore(self.trainer):
            self.tracker.log(f"{self.title} continues after step {self.trainer.step}")
        elif self.keeper.resumed:
            self.tracker.log(f"{self.title} has no checkpoint and starts from its beginning")
        self.trainer.use_threads()
        if self.clock:
            self.clock.begun -= self._seconds()
        else:
            self._check_epochs()
        if self.trainer.step == 0 or self.clock:  # the clock learns how long a sheet takes
            self._sheet_of_average()
        self._begin_clock()
        if self.learner.concluded and self.trainer.step < self.trainer.total_steps:
            self.learner.forget()
            self.keeper.record_part(self.index)
        self._make_steps()
        (signum,) = self.plan.processes.largest(self.signals.received or 0)
        if signum:
            self._follow_clock()
            self._save()
            place = f"after step {self.trainer.step} of {self.title}"
            message = f"interrupted {place}; everything is saved"
            self.tracker.log(message)
            raise Interrupted(signum, message, self.tracker.directory.path)
        valid_loss = self._validated()
        self.tracker.log(f"{self.title} ended: validation {valid_loss:.4f}")
        self._save()
        self.trainer.ema.keep()
        if not self.learner.concluded:
            self._conclude()
        self._sheet()
        self._check_training()
        if self.clock:
            end = self.plan.processes.on_rank_0(self.clock.end, self.trainer.step)
            self.trainer.follow(end)
            self.keeper.record(self.index, self.trainer.revisions)
        return self._seconds()

    def _seconds(self) -> float:
        revisions, step = self.trainer.revisions, self.trainer.step
        return max((r.seconds for r in revisions if r.step <= step), default=0.0) if step else 0.0

    def _make_steps(self) -> None:
        """Make all steps that are left, or those until a signal."""
        trainer, config, processes = self.trainer, self.plan.config, self.plan.processes
        batches = self.plan.batches(self.index, trainer.step, trainer.total_steps)
        losses: list[Tensor] = []
        size = config.batch_size_of(self.index)
        left = self._left if len(self.plan.chosen) > 1 or self.clock else None
        with self.tracker.bar(self.index, trainer.step, size, left) as bar:
            for batch in processes.in_step(self.signals.until_stopped(batches)):
                losses.append(trainer.train_step(batch))
                if self.clock and (trainer.step >= self._look or self.clock.cores_changed()):
                    self._read(losses, bar)
                    self._follow_clock()
                if any(map(self._due, (READ_EVERY, config.chckpt_num, config.sample_num))):
                    self._read(losses, bar)
                    self._act(bar)
                if trainer.done:
                    break
            self._read(losses, bar)

    def _begin_clock(self) -> None:
        """Time a part of a validation, for the plan, and make the first one."""
        if self.clock:
            batches = self.plan.validation(self.index)
            some = batches[: self.plan.processes.world]  # one for each rank
            with self.clock.pause("checkpoint", len(some) / len(batches)):
                self.trainer.validate(some)
            self._follow_clock()

    def _follow_clock(self) -> None:
        """Revise how long the learner trains, where the clock decides it: that of rank 0."""
        if self.clock:
            revise, step = self.clock.revise, self.trainer.step
            revision, self._look = self.plan.processes.on_rank_0(revise, step)
            self.trainer.follow(revision)
            self.tracker.steps[self.index] = revision.steps
        self._check_epochs()

    def _due(self, every: int) -> bool:
        return self.trainer.step % every == 0

    def _read(self, losses: list[Tensor], bar: Bar) -> None:
        """Fetch the losses of the last steps and show their running mean."""
        self.trainer.check()
        if losses:
            bar.update(self.plan.processes.mean(torch.stack(losses)).tolist())
        losses.clear()
        self._expect(bar)

    def _expect(self, bar: Bar) -> None:
        """Log once how long the learner and the run will take, when steps have been timed."""
        if self._expected or self.trainer.done or (left := bar.left) is None:
            return
        if self.clock and self.clock.seconds < self.clock.available / 4:
            return
        self._expected = True
        own, run = left
        steps = length(self.plan, self.index, self.trainer.total_steps)
        about = f"{'about ' * bool(self.clock)}{steps}, {duration(own)} left"
        in_all = "" if run is None or run == own else f"; {duration(run)} in all"
        self.tracker.log(f"{self.title}: {about}{in_all}")

    def _left(self, own: float, pace: float) -> float | None:
        """Return the seconds that the run has left, given the learner's and those of a step."""
        if self.clock:
            own = max(0.0, self.clock.available - self.clock.seconds)
        return self.forecast.left(self.index, own, pace)

    def _act(self, bar: Bar) -> None:
        """Do what is due after a step."""
        trainer, config = self.trainer, self.plan.config
        if self._due(METRICS_EVERY):
            values = {"loss": bar.loss, "lr": trainer.rate, "images_per_second": bar.rate}
            if (left := bar.left) is not None and left[1] is not None:
                values["seconds_left"] = left[1]
            self.tracker.record(self.index, trainer.step, **values)
        if trainer.done:
            return
        if self._due(config.chckpt_num):
            self._checkpoint(bar)
        if self._due(config.sample_num):
            self._sheet_of_average()
            self.tracker.log(f"{self.title}, step {trainer.step}: {self.tracker.newest_sheet}")
        if self._due(config.chckpt_num) or self._due(config.sample_num):
            self._follow_clock()

    def _checkpoint(self, bar: Bar) -> None:
        """Validate, report and save."""
        trainer = self.trainer
        with self._pause("checkpoint"):
            valid_loss = self._validated(loss=bar.loss)
            self.tracker.log(
                f"{self.title}, step {trainer.step} of {trainer.total_steps}: "
                f"loss {bar.loss:.4f}, validation {valid_loss:.4f}"
            )
            self._save()
        self._losses.append(Losses(trainer.step, bar.loss, valid_loss))
        if min(each.validation for each in self._losses) == trainer.best_loss:  # else it was before
            self._warn("memorizing", memorizing(self.title, self._losses))

    def _warn(self, kind: str, warning: str | None) -> None:
        """Log a warning, one of each kind."""
        if warning and kind not in self._warned:
            self._warned.add(kind)
            self.tracker.log(warning)

    def _check_epochs(self) -> None:
        """Warn of very many epochs, once the number of steps is known."""
        images, steps = count_of(self.plan.training), self.trainer.total_steps
        if images is not None and steps != UNKNOWN and not self.plan.training.endless:
            epochs = steps * self.plan.config.batch_size_of(self.index) / images
            self._warn("epochs", many_epochs(self.title, images, epochs))

    def _check_training(self) -> None:
        """Warn if a stage, whose weights are the averaged ones, has not learned to enlarge."""
        config, device = self.plan.config, self.trainer.device
        batch = self.plan.validation(self.index)[0]
        draws = Draws(config.seed, self.plan.imagen.config.learner_keys[self.index], -1, len(batch))
        with torch.inference_mode(), autocast(device, config.precision):
            ratio = self.learner.eval().error_ratio(batch.to(device), draws)
        if ratio is not None:
            self._warn(
                "undertrained",
                undertrained(self.index - self.plan.imagen.config.first_stage, ratio),
            )

    def _conclude(self) -> None:
        """Let the learner measure itself with its averaged weights; keep what it found."""
        seen, held_out = self.plan.first_batches(self.index), self.plan.validation(self.index)
        for line in self.learner.eval().conclude(seen, held_out):
            self.tracker.log(line)
        self.keeper.record_part(self.index)

    def _pause(self, kind: str) -> AbstractContextManager[None]:
        """Return the context of what is not a step, for the clock."""
        return self.clock.pause(kind) if self.clock else nullcontext()

    def _save(self) -> None:
        if self.clock:
            self.keeper.record(self.index, self.trainer.revisions)
        self.keeper.save(self.index, self.trainer)

    def _validated(self, **values: float) -> float:
        """Return the validation loss of the averaged weights, after recording it and them."""
        trainer = self.trainer
        valid_loss = trainer.validate(self.plan.validation(self.index))
        self.tracker.record(self.index, trainer.step, **values, valid_loss=valid_loss)
        if best := valid_loss < trainer.best_loss:
            trainer.best_loss = valid_loss
        self.keeper.save_weights(self.index, trainer, best)
        return valid_loss

    def _sheet_of_average(self) -> None:
        """Sample the fixed captions with the averaged weights, while the stage is training."""
        with self._pause("sheet"), self.trainer.ema.swapped_in():
            self._sheet()

    def _sheet(self) -> None:
        """Show what the learner does, as it is, on rank 0.

        A stage samples the fixed captions, with those before it; others have images of their own.
        """
        processes = self.plan.processes
        # A sharded network's forward passes need all ranks.
        sheet = self._drawn() if processes.sharded else None

        def write() -> None:
            if (drawn := sheet or self._drawn()) is not None:
                self.tracker.sheet(self.index, self.trainer.step, drawn)

        processes.on_rank_0(write)

    def _drawn(self) -> Image | None:
        imagen, captions = self.plan.imagen, self.plan.captions
        stage = self.index - imagen.config.first_stage
        if stage < 0:
            return self._shown()
        for i in range(imagen.config.first_stage, self.index):
            if i not in self.plan.chosen:
                self.keeper.load_weights(i)  # another job may be training it
        imagen.eval()
        samplings = imagen.samplings()[: stage + 1]
        options = {"precision": self.plan.config.precision, "batch_size": self._at_once}
        seeds = range(len(captions))
        return contact_sheet(captions, imagen.sample_stages(captions, samplings, seeds, **options))

    @property
    def _at_once(self) -> int:
        """Return the images that a step has on the device at once."""
        config = self.plan.config
        size = config.batch_size_of(self.index) // config.accum_iter
        return max(1, size // self.plan.processes.world)

    def _shown(self) -> Image | None:
        """Return a sheet of what the learner itself shows of some images, if it does."""
        batch = self.plan.validation(self.index)[0][:ON_SHEET].to(self.trainer.device)
        with torch.inference_mode(), autocast(self.trainer.device, self.plan.config.precision):
            columns = self.learner.eval().shown(batch)
        return contact_sheet(batch.captions, [to_pil(c) for c in columns]) if columns else None

    def _too_large(self) -> str:
        """Return what to do about a step that does not fit."""
        config, step = self.plan.config, self.trainer.step
        return (
            f"{self.title}, step {step}: {self.trainer.device} has not enough memory for "
            f"{self._at_once} images at once; give a larger `accum_iter` (now "
            f"{config.accum_iter}: more, smaller pieces, the same result), "
            "`activation_checkpointing`, `precision` bf16 or a smaller `batch_size` (the last "
            "checkpoint is unharmed)"
        )
