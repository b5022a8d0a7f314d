"""train(): cascade + data + configuration -> training directory."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimagen.batch import Batch
from minimagen.config import DataConfig, TrainingConfig
from minimagen.contact_sheet import contact_sheet, save_sheet
from minimagen.data.embedding_cache import EmbeddingCache
from minimagen.data.loader import good_samples, training_batches, validation_batches
from minimagen.data.sample import CaptionedDataset
from minimagen.data.split import at_most, split_train_valid
from minimagen.data.stream import PROMISE, PictureStream, TrainingData
from minimagen.device import resolve_device
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.networks.unet import count_parameters
from minimagen.storage.checkpoint import (
    keep_newest,
    load_newest,
    save_checkpoint,
    save_weights,
    set_aside_after,
)
from minimagen.storage.directory import Parameters, TrainingDirectory, write_parameters
from minimagen.training.interruption import Interrupted, StopSignals
from minimagen.training.length import steps_of
from minimagen.training.resume import check_resumable, run_identity
from minimagen.training.tracking import Bar, Tracker
from minimagen.training.trainer import NonFiniteLossError, Trainer

VALIDATED_AT_ONCE = 32
ON_SHEET = 16  # captions of the validation set that are painted, where none are given
METRICS_EVERY = 50  # steps between lines of metrics.jsonl


def train(
    imagen: Imagen,
    dataset: TrainingData,
    config: TrainingConfig,
    *,
    data: DataConfig | None = None,
    output: str | Path | None = None,
    stages: Sequence[int] | None = None,
    device: str = "auto",
    resume: TrainingDirectory | None = None,
    in_place: bool = False,
) -> TrainingDirectory:
    """Train the stages of a cascade one after the other and return the training directory.

    Args:
        imagen: The cascade; its stages are trained in place and end with the averaged weights.
        dataset: Captioned pictures of the size of the last stage.
        config: Steps, rates, batch size.
        data: What is written to ``data.json``, the share for validation and its size.
        output: The training directory; ``training_<time>`` by default.
        stages: Which stages to train; all by default.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        resume: Continue from the checkpoints of this directory.
        in_place: Continue in that directory instead of a new one.

    Raises:
        UserError: If a setting is not valid or nothing can be written.
        Interrupted: After Ctrl-C or SIGTERM, with everything saved.
        NonFiniteLossError: If the loss is no longer a number; the weights before are saved.
    """
    data = data or DataConfig()
    chosen = _chosen_stages(stages, len(imagen.stages))
    config = config.for_stages(len(imagen.stages))
    imagen.to(resolve_device(device))
    imagen.text_encoder.to(imagen.device)
    encode = EmbeddingCache(imagen.text_encoder)
    training, validation = split_train_valid(
        dataset, data.train_valid_frac, data.seed, data.valid_num
    )
    training = at_most(training, data.max_samples, data.seed)
    _check_size(validation, imagen)
    steps = steps_of(imagen, training, config, encode, chosen)
    config = config.replace(steps=steps, epochs=None, minutes=None)
    identities = [run_identity(imagen, config, data, training, i) for i in range(len(steps))]
    if resume:
        check_resumable(imagen, resume, identities, steps, chosen)
    directory = resume if resume and in_place else TrainingDirectory.create(output)
    tracker = Tracker(directory.progress, directory.metrics)
    write_parameters(directory.parameters, Parameters(imagen.config, config, data))
    valid = validation_batches(validation, encode, VALIDATED_AT_ONCE, data.valid_num)
    captions = config.sample_captions or [s.caption for s in good_samples(validation, ON_SHEET)]
    directory.sample_captions.write_text("\n".join(captions) + "\n", "utf-8")
    _announce(tracker, directory, resume, imagen)
    if isinstance(training, PictureStream):
        tracker.say(PROMISE)
    with StopSignals() as signals:
        run = _Run(imagen, directory, resume, config, tracker, captions, valid, signals, identities)
        for i in range(len(imagen.stages)):
            if i in chosen:
                run.train_stage(i, training, encode)
            elif resume:
                run.take_over(i)
    if cut := imagen.text_encoder.cut_captions:
        tracker.say(f"{cut} different captions were cut to {imagen.config.max_num_words} tokens")
    tracker.say("training finished")
    return directory


@dataclass
class _Run:
    """What the stages of one run share."""

    imagen: Imagen
    directory: TrainingDirectory
    resume: TrainingDirectory | None
    config: TrainingConfig
    tracker: Tracker
    captions: Sequence[str]
    valid: Sequence[Batch]
    signals: StopSignals
    identities: Sequence[dict[str, Any]]

    def train_stage(self, i: int, dataset: TrainingData, encode: EmbeddingCache) -> None:
        """Train stage ``i`` from its newest checkpoint, or from its start, to its end."""
        trainer = _trainer(self.imagen, self.config, i)
        self._restore(trainer)
        if trainer.step == 0:
            self._sheet_of_average(trainer)
        config = self.config
        batches = training_batches(
            dataset,
            encode,
            config.batch_size_of(i),
            config.seed,
            trainer.step,
            trainer.total_steps,
            config.num_workers,
        )
        images = config.batch_size_of(i)
        bar = self.tracker.bar(f"stage {i}", trainer.step, trainer.total_steps, images)
        with bar as progress:
            for batch in batches:
                self._step(trainer, batch, progress)
        self._finish(trainer)

    def _step(self, trainer: Trainer, batch: Batch, progress: Bar) -> None:
        """Make one step, then whatever is due after it."""
        try:
            progress.update(trainer.train_step(batch))
        except NonFiniteLossError as error:
            self._save(trainer)
            self.tracker.say(f"stopped: {error}")
            raise
        step, stage = trainer.step, trainer.index
        if step % METRICS_EVERY == 0:
            self.tracker.record(stage=stage, step=step, loss=progress.loss)
        if self.signals.received is not None:
            self._save(trainer)
            message = f"interrupted after step {step} of stage {stage}; everything is saved"
            self.tracker.say(message)
            raise Interrupted(self.signals.received, message)
        if trainer.done:
            return
        if step % self.config.chckpt_num == 0:
            self._checkpoint(trainer, progress.loss)
        if step % self.config.sample_num == 0:
            self._sheet_of_average(trainer)

    def _checkpoint(self, trainer: Trainer, loss: float) -> None:
        """Validate, keep the best averaged weights, and save everything."""
        valid_loss = trainer.validate(self.valid)
        self.tracker.record(
            stage=trainer.index, step=trainer.step, loss=loss, valid_loss=valid_loss
        )
        self.tracker.say(
            f"stage {trainer.index}, step {trainer.step} of {trainer.total_steps}: "
            f"loss {loss:.4f}, validation {valid_loss:.4f}"
        )
        if valid_loss < trainer.best_loss:
            trainer.best_loss = valid_loss
            self._save_weights(trainer)
        self._save(trainer)

    def _finish(self, trainer: Trainer) -> None:
        """Save the end of a stage and let it keep the averaged weights."""
        valid_loss = trainer.validate(self.valid)
        self.tracker.record(stage=trainer.index, step=trainer.step, valid_loss=valid_loss)
        self.tracker.say(f"stage {trainer.index} ended: validation {valid_loss:.4f}")
        self._save(trainer)
        self._save_weights(trainer)
        self.imagen.load_stage(trainer.index, self.directory.weights(trainer.index))
        self._sheet(trainer.index, trainer.step)

    def _save(self, trainer: Trainer) -> None:
        folder = self.directory.checkpoint(trainer.index, trainer.step)
        state = trainer.state() | {"run": self.identities[trainer.index]}
        save_checkpoint(folder, trainer.tensors(), state)
        keep_newest(self.directory.tmp, self.directory.checkpoint_prefix(trainer.index), 2)

    def _save_weights(self, trainer: Trainer) -> None:
        header = {"stage": self.imagen.stage_identity(trainer.index), "step": trainer.step}
        path = self.directory.weights(trainer.index)
        save_weights(path, trainer.ema.state(), header)

    def _restore(self, trainer: Trainer) -> None:
        if self.resume is None:
            return
        prefix = self.resume.checkpoint_prefix(trainer.index)
        checkpoint = load_newest(self.resume.tmp, prefix)
        if checkpoint is None:
            return
        trainer.load(*checkpoint)
        if self.resume.path.resolve() == self.directory.path.resolve():
            set_aside_after(self.directory.tmp, prefix, trainer.step)
        self._copy_weights(trainer.index)
        self.tracker.say(f"stage {trainer.index} continues after step {trainer.step}")

    def take_over(self, i: int) -> None:
        """Keep what the resumed directory holds of a stage that is not trained now."""
        assert self.resume is not None
        prefix = self.resume.checkpoint_prefix(i)
        if self.resume.path.resolve() != self.directory.path.resolve():
            for folder in self.resume.tmp.glob(f"{prefix}*"):
                shutil.copytree(folder, self.directory.tmp / folder.name)
        self._copy_weights(i)
        if self.directory.weights(i).is_file():
            self.imagen.load_stage(i, self.directory.weights(i))

    def _copy_weights(self, i: int) -> None:
        assert self.resume is not None
        source, target = self.resume.weights(i), self.directory.weights(i)
        if source.is_file() and source.resolve() != target.resolve():
            shutil.copyfile(source, target)

    def _sheet_of_average(self, trainer: Trainer) -> None:
        """Paint the fixed captions with the averaged weights of a stage that still trains."""
        with trainer.ema.swapped_in():
            self._sheet(trainer.index, trainer.step)

    def _sheet(self, stage: int, step: int) -> None:
        """Paint the fixed captions with the stages up to this one, as they are."""
        self.imagen.eval()
        pictures = self.imagen.sample_stages(
            self.captions,
            self.imagen.samplings()[: stage + 1],
            seeds=range(len(self.captions)),
            precision=self.config.precision,
        )
        path = self.directory.samples / f"stage_{stage}_step_{step:08d}.png"
        save_sheet(path, contact_sheet(self.captions, pictures))


def _announce(
    tracker: Tracker, directory: TrainingDirectory, resume: TrainingDirectory | None, imagen: Imagen
) -> None:
    tracker.say(f"training directory: {directory}")
    if resume:
        tracker.say(f"resumed from {resume}")
    for i, stage in enumerate(imagen.stages):
        size = " x ".join(map(str, imagen.config.image_sizes[i]))
        tracker.say(f"stage {i}: {size}, {count_parameters(stage) / 1e6:.2f} M parameters")


def _trainer(imagen: Imagen, config: TrainingConfig, i: int) -> Trainer:
    assert isinstance(config.steps, tuple)  # train() has made it so
    return Trainer(
        imagen.stages[i],
        i,
        config.stages[i],
        total_steps=config.steps[i],
        seed=config.seed,
        accum_iter=config.accum_iter,
        precision=config.precision,
    )


def _chosen_stages(stages: Sequence[int] | None, count: int) -> Sequence[int]:
    """Return the stages to train, checked."""
    for i in stages or ():
        if not 0 <= i < count:
            raise UserError(f"STAGES: there is no stage {i}; the stages are 0 to {count - 1}")
    return range(count) if stages is None else stages


def _check_size(dataset: CaptionedDataset, imagen: Imagen) -> None:
    height, width = next(good_samples(dataset, 1)).image.shape[:2]
    if (height, width) != imagen.config.image_sizes[-1]:
        raise UserError(
            f"the pictures are {height} x {width}, the last stage paints "
            f"{imagen.config.image_sizes[-1]}; load the data at that size"
        )
