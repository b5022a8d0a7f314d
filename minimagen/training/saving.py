"""What a run keeps on disk of its learners: checkpoints to resume from, weights for inference."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

from minimagen.config.training import Revision
from minimagen.errors import UserError
from minimagen.storage.checkpoint import (
    STATE,
    checkpoints,
    find_newest,
    finish_checkpoint,
    keep_newest,
    save_checkpoint,
    save_weights,
    set_aside_after,
)
from minimagen.storage.directory import TrainingDirectory, read_imagen_config
from minimagen.storage.files import (
    begin_folder,
    cannot_write,
    locked,
    read_json,
    write_json,
)
from minimagen.storage.joining import record_revisions, start_directory, write_again
from minimagen.storage.pretrained import load_frozen, load_stage
from minimagen.training.distillation import keep_teacher
from minimagen.training.finetuning import keep_start
from minimagen.training.plan import Plan
from minimagen.training.resume import check_resumable, run_identity
from minimagen.training.trainer import Trainer

PATIENCE = 8.0  # seconds: the workers of a killed process live so long


class Keeper:
    """Saves and restores the learners of a run; rank 0 writes whole tensors, every rank its shards.

    All ranks must call its methods.

    Args:
        plan: What the run trains.
        directory: Where it writes.
        resumed: Whether it continues from the checkpoints there.
    """

    def __init__(self, plan: Plan, directory: TrainingDirectory, resumed: bool) -> None:
        self._plan, self._directory, self.resumed = plan, directory, resumed
        self._on_rank_0 = plan.processes.on_rank_0
        # Of one learner at a time: a stage's depends on the CLIP that was trained before it.
        self._run = cache(partial(run_identity, plan))
        self._identity = cache(plan.imagen.identity)

    def save(self, i: int, trainer: Trainer) -> None:
        """Write a checkpoint of learner ``i`` and delete old ones."""
        name = trainer.learner.name
        folder = self._directory.checkpoint(name, trainer.step)
        state = trainer.state() | {"run": self._run(i)}
        if self._plan.processes.sharded:
            from minimagen.storage.sharded import save_shards  # takes a second to load

            part = self._on_rank_0(begin_folder, folder)
            try:
                save_shards(part, trainer.tensors())
            except UserError:
                shutil.rmtree(part, ignore_errors=True)
                raise
            self._on_rank_0(finish_checkpoint, folder, state)
        else:
            self._on_rank_0(save_checkpoint, folder, trainer.tensors(), state)
        prefix, kept = self._directory.checkpoint_prefix(name), self._plan.config.keep_checkpoints
        if kept != "all":
            self._on_rank_0(keep_newest, self._directory.tmp, prefix, kept)

    def record(self, i: int, revisions: Sequence[Revision]) -> None:
        """Write those of the plan of learner ``i`` to ``training.json``."""
        self._on_rank_0(record_revisions, self._directory, i, revisions)

    def record_part(self, i: int) -> None:
        """Write the configuration of learner ``i``, which may have measured itself."""
        if i < self._plan.imagen.config.first_stage:
            part = self._plan.imagen.frozen[i]
            path = self._directory.parameters / f"{part.name}.json"
            self._on_rank_0(write_json, path, part.config)

    def save_weights(self, i: int, trainer: Trainer, best: bool) -> None:
        """Write the averaged weights for inference, whole; also as the best ones if they are."""
        name = trainer.learner.name
        header = {"stage": self._identity(i).model_dump(mode="json"), "step": trainer.step}
        average = self._plan.processes.gathered(trainer.ema.state())
        self._on_rank_0(save_weights, self._directory.weights(name), average, header)
        if best:
            self._on_rank_0(save_weights, self._directory.best_weights(name), average, header)

    def restore(self, trainer: Trainer) -> bool:
        """Let the trainer continue after the newest checkpoint; False where there is none."""
        if not self.resumed:
            return False
        tmp, prefix = self._directory.tmp, self._directory.checkpoint_prefix(trainer.learner.name)
        folder = self._on_rank_0(find_newest, tmp, prefix)
        if folder is None:
            return False
        from minimagen.storage.sharded import load_shards, saved_shapes  # takes a second

        tensors = trainer.targets(saved_shapes(folder))
        load_shards(folder, tensors, alone=not self._plan.processes.sharded)
        trainer.load(tensors, read_json(folder / STATE))
        self._on_rank_0(set_aside_after, tmp, prefix, trainer.step)
        return True

    def load_weights(self, i: int) -> None:
        """Load what the directory holds of a learner that another job trains, if it does."""
        imagen, learner = self._plan.imagen, self._plan.imagen.learners[i]
        path = self._directory.weights(learner.name)
        if i < imagen.config.first_stage:
            load_frozen(imagen, self._directory)
        elif path.is_file():
            load_stage(learner, path, self._identity(i))


def existing(output: str | Path | None) -> TrainingDirectory | None:
    """Return the training directory at ``output``, which a run may join, if there is one."""
    directory = None if output is None else TrainingDirectory(output)
    return directory if directory is not None and directory.has_parameters else None


def open_directory(
    plan: Plan,
    output: str | Path | None,
    resume: TrainingDirectory | None,
    teacher: TrainingDirectory | None,
    held: ExitStack,
) -> TrainingDirectory:
    """Return where the run writes, with its parameters and the captions of its sheets.

    A new directory gets what that of ``resume`` holds of all learners, before any goes on: a run
    that stops in its first one has lost nothing of the later ones. Until ``held`` is closed no
    other process trains the same learners there.

    Raises:
        UserError: If ``output`` is taken or cannot be made, ``resume`` cannot be continued, or
            another process trains there.
    """
    if resume:
        check_resumable(plan, resume)
    if resume and output is not None and resume.path.resolve() == Path(output).resolve():
        directory = resume
        _hold(directory, plan, held)
        write_again(directory, plan.parameters, plan.chosen, _others_train(directory, plan))
    else:
        also = partial(keep_teacher, teacher, plan.chosen) if teacher else None
        if resume is None and plan.config.source is not None:
            also = partial(keep_start, plan)
        directory = start_directory(output, plan.parameters, plan.chosen, resume is None, also)
        _hold(directory, plan, held)
        if resume:
            _copy(resume, directory)
    directory.sample_captions.write_text("\n".join(plan.captions) + "\n", "utf-8")
    return directory


def _hold(directory: TrainingDirectory, plan: Plan, held: ExitStack) -> None:
    """Keep other processes from training the same learners in a directory."""
    directory.tmp.mkdir(parents=True, exist_ok=True)
    for name in (plan.imagen.learners[i].name for i in plan.chosen):
        if not held.enter_context(locked(_lock_of(directory, name), PATIENCE)):
            raise UserError(
                f"{name} is being trained in {directory} by another process: wait for its end, or "
                "leave out `in_place`"
            )


def _others_train(directory: TrainingDirectory, plan: Plan) -> bool:
    """Return whether another process trains other learners in a directory."""
    others = set(range(len(plan.imagen.learners))) - set(plan.chosen)
    for name in (plan.imagen.learners[i].name for i in others):
        with locked(_lock_of(directory, name)) as free:
            if not free:
                return True
    return False


def _lock_of(directory: TrainingDirectory, name: str) -> Path:
    return directory.tmp / f".{name}_training"


def _copy(source: TrainingDirectory, target: TrainingDirectory) -> None:
    """Copy finished checkpoints and weights."""
    try:
        for name in read_imagen_config(source.parameters).learner_names:
            for folder in checkpoints(source.tmp, source.checkpoint_prefix(name)):
                (target.tmp / folder.stem).mkdir()  # not with the rights of the source
                for file in folder.iterdir():
                    shutil.copyfile(file, target.tmp / folder.stem / file.name)
        for file in source.state_dicts.glob("*.safetensors"):
            shutil.copyfile(file, target.state_dicts / file.name)
        if source.environment.is_file():
            shutil.copyfile(source.environment, target.environment)
    except (OSError, shutil.Error) as error:
        raise cannot_write(target.path, error) from None
