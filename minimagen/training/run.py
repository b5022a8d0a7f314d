"""train(): cascade + data + configuration -> training directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image

from minimagen.config import DataConfig, TrainingConfig
from minimagen.data.dataset import Dataset, Samples
from minimagen.data.images.stream import PROMISE
from minimagen.data.indexed import as_dataset
from minimagen.data.loading.batches import training_batches
from minimagen.imagen import Imagen
from minimagen.images import Batch, LearnerSizes
from minimagen.networks.unet import count_parameters
from minimagen.storage.directory import Parameters, TrainingDirectory, write_parameters
from minimagen.storage.image_files import contact_sheet, save_png
from minimagen.storage.joining import start_directory
from minimagen.training.boards import check_board, start_board
from minimagen.training.distillation import keep_teacher, kept_teacher, learn, stages_to_teach
from minimagen.training.inputs import Inputs, prepare_inputs
from minimagen.training.interruption import Interrupted, StopSignals
from minimagen.training.length import steps_of
from minimagen.training.processes.alone import Processes
from minimagen.training.processes.launch import launched
from minimagen.training.resume import check_resumable, run_identity
from minimagen.training.saving import Keeper
from minimagen.training.settings import check_settings
from minimagen.training.tracking import Bar, Tracker
from minimagen.training.trainer import NonFiniteLossError, Trainer

METRICS_EVERY = 50  # steps between lines of metrics.jsonl


class OutOfMemory(Exception):
    """The device has not enough memory for a step; checkpoints before it are unharmed."""


def train(
    imagen: Imagen,
    dataset: Dataset | Samples,
    config: TrainingConfig,
    *,
    data: DataConfig | None = None,
    output: str | Path | None = None,
    stages: Sequence[int] | None = None,
    device: str = "auto",
    resume: TrainingDirectory | None = None,
    in_place: bool = False,
    fsdp: bool = False,
    teacher: TrainingDirectory | None = None,
) -> TrainingDirectory:
    """Train the stages of a cascade one after the other and return the training directory.

    Args:
        imagen: The cascade; its stages are trained in place and end with the averaged weights.
        dataset: Captioned images of the size of the last stage, or of its aspect buckets: from
            `load_dataset`, or your own class with ``__len__`` and ``__getitem__``.
        config: Steps, rates, batch size.
        data: The share for validation and its size; what the data set says of itself counts.
        output: The training directory, ``training_<time>`` by default; other stages' is joined.
        stages: Which stages to train; all by default.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        resume: Continue from the checkpoints of this directory, in a new one unless ``in_place``.
        fsdp: Share the networks out among the processes, where one device cannot hold them.
        teacher: What stages with ``distilled_steps`` learn from; a resumed run has kept its own.

    Raises:
        UserError: If a setting is not valid or nothing can be written.
        Interrupted: After Ctrl-C or SIGTERM, with everything saved.
        NonFiniteLossError: If the loss is no longer a number; the weights before are saved.
        OutOfMemory: If a step needs more memory than the device has.
    """
    dataset = as_dataset(dataset)
    data = (data or DataConfig()).replace(**dataset.description)
    processes = launched(device, fsdp)
    teacher = kept_teacher(resume) or teacher
    with processes.together():
        chosen = stages_to_teach(imagen, teacher, stages)
        config = config.for_stages(len(imagen.stages))
        check_settings(config, chosen, processes.world, processes.sharded)
        check_board(config.tracker)
        _make_ready(imagen, chosen, processes, config.activation_checkpointing, teacher)
        inputs = prepare_inputs(imagen, dataset, data, config)
    steps = steps_of(imagen, inputs.training, config, inputs.encode, chosen, processes)
    config = config.replace(steps=steps, epochs=None, minutes=None)
    identities = [run_identity(imagen, config, data, inputs.training, i) for i in range(len(steps))]
    parameters = Parameters(imagen.config, config, data)
    if resume:
        processes.on_main(lambda: check_resumable(imagen, resume, identities, steps, chosen))
    directory = processes.on_main(
        lambda: _directory(output, resume, in_place, parameters, chosen, inputs.captions, teacher)
    )
    tracker = _announced(config, directory, resume, teacher, imagen, processes, inputs.training)
    keeper = Keeper(imagen, directory, resume, identities, processes)
    keeper.take_over()
    with StopSignals(processes.world > 1) as signals:
        run = _Run(imagen, inputs, directory, config, tracker, signals, processes, keeper, chosen)
        run.train_all()
    return directory


@dataclass
class _Run:
    """What the stages of one run share; every process runs it, the main one writes."""

    imagen: Imagen
    inputs: Inputs
    directory: TrainingDirectory
    config: TrainingConfig
    tracker: Tracker
    signals: StopSignals
    processes: Processes
    keeper: Keeper
    chosen: Sequence[int]

    def train_all(self) -> None:
        """Train the chosen stages, one after the other; the others take part as they were saved."""
        for i in range(len(self.imagen.stages)):
            if i in self.chosen:
                self._train_stage(i)
            else:
                self.keeper.load_weights(i)
        for note in self.inputs.encode.notes():
            self.tracker.say(note)
        self.tracker.end()
        self.tracker.say("training finished")

    def _train_stage(self, i: int) -> None:
        """Train stage ``i`` from its newest checkpoint, or from its start, to its end."""
        trainer = _trainer(self.imagen, self.config, i, self.processes)
        if self.keeper.restore(trainer):
            self.tracker.say(f"stage {i} continues after step {trainer.step}")
        elif self.keeper.resume:
            self.tracker.say(f"stage {i} has no checkpoint and starts from its beginning")
        if trainer.step == 0:
            self._sheet_of_average(trainer)
        config, processes = self.config, self.processes
        images = config.batch_size_of(i)
        batches = training_batches(
            self.inputs.training,
            self.inputs.encode,
            images,
            config.seed,
            trainer.step,
            trainer.total_steps,
            config.num_workers,
            processes.rank,
            processes.world,
            sizes=self._sizes(i),
        )
        bar = self.tracker.bar(f"stage {i}", trainer.step, trainer.total_steps, images)
        with bar as progress:
            for batch in processes.in_step(self.signals.until_stopped(batches)):
                self._step(trainer, batch, progress)
        self._stop_if_asked(trainer)
        self._finish(trainer)

    def _sizes(self, i: int) -> LearnerSizes:
        return LearnerSizes(self.imagen.config.image_sizes[-1], *self.imagen.stages[i].image_sizes)

    def _step(self, trainer: Trainer, batch: Batch, progress: Bar) -> None:
        """Make one step, then whatever is due after it."""
        rate = trainer.rate
        try:
            progress.update(trainer.train_step(batch))
        except NonFiniteLossError as error:
            self.keeper.save(trainer)
            self.tracker.say(f"stopped: {error}")
            raise
        except torch.OutOfMemoryError:
            raise OutOfMemory(_too_large(trainer, self.config)) from None
        step = trainer.step
        if step % METRICS_EVERY == 0:
            self._record(trainer, loss=progress.loss, lr=rate, images_per_second=progress.rate)
        self._stop_if_asked(trainer)
        if trainer.done:
            return
        if step % self.config.chckpt_num == 0:
            self._checkpoint(trainer, progress.loss)
        if step % self.config.sample_num == 0:
            self._sheet_of_average(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        """Save everything and raise Interrupted if a signal has come to any rank."""
        if signum := self.processes.most(self.signals.received or 0):
            self.keeper.save(trainer)
            step, stage = trainer.step, trainer.index
            message = f"interrupted after step {step} of stage {stage}; everything is saved"
            self.tracker.say(message)
            raise Interrupted(signum, message)

    def _record(self, trainer: Trainer, **values: float) -> None:
        self.tracker.record(trainer.index, trainer.step, self._before(trainer.index), **values)

    def _before(self, stage: int) -> int:
        """Return the steps of the stages before: one axis for the curves of all."""
        assert isinstance(self.config.steps, tuple)
        return sum(self.config.steps[:stage])

    def _checkpoint(self, trainer: Trainer, loss: float) -> None:
        """Validate and save everything."""
        valid_loss = self._validated(trainer, loss=loss)
        self.tracker.say(
            f"stage {trainer.index}, step {trainer.step} of {trainer.total_steps}: "
            f"loss {loss:.4f}, validation {valid_loss:.4f}"
        )
        self.keeper.save(trainer)

    def _finish(self, trainer: Trainer) -> None:
        """Save the end of a stage and let it keep the averaged weights."""
        valid_loss = self._validated(trainer)
        self.tracker.say(f"stage {trainer.index} ended: validation {valid_loss:.4f}")
        self.keeper.save(trainer)
        trainer.ema.keep()
        self._sheet(trainer.index, trainer.step)

    def _validated(self, trainer: Trainer, **values: float) -> float:
        """Return the validation loss of the averaged weights, after recording it and them."""
        sizes, full = trainer.stage.image_sizes, self.imagen.config.image_sizes[-1]
        batches = [batch.at(sizes, full) for batch in self.inputs.valid]
        valid_loss = trainer.validate(batches)
        self._record(trainer, **values, valid_loss=valid_loss)
        best = valid_loss < trainer.best_loss
        trainer.best_loss = min(valid_loss, trainer.best_loss)
        self.keeper.save_weights(trainer, best)
        return valid_loss

    def _sheet_of_average(self, trainer: Trainer) -> None:
        """Paint the fixed captions with the averaged weights of a stage that still trains."""
        with trainer.ema.swapped_in():
            self._sheet(trainer.index, trainer.step)

    def _sheet(self, stage: int, step: int) -> None:
        """Paint the fixed captions with the stages up to this one, as they are.

        The main process does it alone; with shards everybody must, for the main process to keep.
        """
        pictures = self._painted(stage) if self.processes.sharded else None

        def save() -> None:
            sheet = contact_sheet(self.inputs.captions, pictures or self._painted(stage))
            save_png(self.directory.samples / f"stage_{stage}_step_{step:08d}.png", sheet)
            self.tracker.show(f"stage_{stage}", sheet, self._before(stage) + step)

        self.processes.on_main(save)

    def _painted(self, stage: int) -> list[list[Image]]:
        for i in range(stage):
            if i not in self.chosen:
                self.keeper.load_weights(i)  # another job may be training it
        self.imagen.eval()
        return self.imagen.sample_stages(
            self.inputs.captions,
            self.imagen.samplings()[: stage + 1],
            seeds=range(len(self.inputs.captions)),
            precision=self.config.precision,
        )


def _directory(
    output: str | Path | None,
    resume: TrainingDirectory | None,
    in_place: bool,
    parameters: Parameters,
    chosen: Sequence[int],
    captions: Sequence[str],
    teacher: TrainingDirectory | None,
) -> TrainingDirectory:
    """Return where the run writes, with its parameters and the captions of its sheets."""
    if resume and in_place:
        directory = resume
        write_parameters(directory.parameters, parameters)
    else:
        also = partial(keep_teacher, teacher, chosen) if teacher else None
        directory = start_directory(output, parameters, chosen, resume is None, also)
    directory.sample_captions.write_text("\n".join(captions) + "\n", "utf-8")
    return directory


def _announced(
    config: TrainingConfig,
    directory: TrainingDirectory,
    resume: TrainingDirectory | None,
    teacher: TrainingDirectory | None,
    imagen: Imagen,
    processes: Processes,
    training: Dataset,
) -> Tracker:
    """Return what tells and records the run, once it has told what is trained."""
    board = start_board(config.tracker, directory, processes)
    tracker = Tracker(directory.progress, directory.metrics, processes.is_main, board)
    tracker.say(f"training directory: {directory}")
    if processes.world > 1:
        tracker.say(f"{processes}; the batch size is that of all together")
    if resume:
        tracker.say(f"resumed from {resume}")
    if teacher:
        tracker.say(f"the teacher is {teacher}")
    for i, stage in enumerate(imagen.stages):
        size = " x ".join(map(str, imagen.config.image_sizes[i]))
        tracker.say(f"stage {i}: {size}, {count_parameters(stage) / 1e6:.2f} M parameters")
    if len(training.sizes) > 1 and training.repeatable:
        counts = ", ".join(f"{n} of {h} x {w}" for (h, w), n in training.sizes.items())
        tracker.say(f"images by size: {counts}")
    if not training.repeatable:
        tracker.say(PROMISE)
    return tracker


def _trainer(imagen: Imagen, config: TrainingConfig, i: int, processes: Processes) -> Trainer:
    assert isinstance(config.steps, tuple)  # train() has made it so
    return Trainer(
        imagen.stages[i],
        i,
        config.stages[i],
        total_steps=config.steps[i],
        seed=config.seed,
        accum_iter=config.accum_iter,
        precision=config.precision,
        processes=processes,
    )


def _make_ready(
    imagen: Imagen,
    chosen: Sequence[int],
    processes: Processes,
    recompute: bool,
    teacher: TrainingDirectory | None,
) -> None:
    """Give the cascade its teacher, if there is one, and bring it to the device, but for stages
    that will be sharded there block by block.
    """
    if teacher is not None:
        learn(imagen, teacher, processes.device)
    for i, stage in enumerate(imagen.stages):
        stage.recompute_activations(recompute)
        if not (processes.sharded and i in chosen):
            stage.to(processes.device)
    imagen.text_encoder.to(processes.device)


def _too_large(trainer: Trainer, config: TrainingConfig) -> str:
    """Return what to do about a step that does not fit."""
    micro = config.batch_size_of(trainer.index) // config.accum_iter // trainer.processes.world
    return (
        f"stage {trainer.index}, step {trainer.step}: {trainer.device} has not enough memory for "
        f"{micro} images at once; give a larger `accum_iter` (now {config.accum_iter}: more, "
        "smaller pieces, the same result), `activation_checkpointing`, `precision` bf16 or a "
        "smaller `batch_size` (the last checkpoint is unharmed)"
    )
