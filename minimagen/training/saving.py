"""What a run keeps on disk of its stages: checkpoints to resume from, weights for inference."""

import shutil
from functools import partial
from pathlib import Path

from minimagen.errors import UserError
from minimagen.storage.checkpoint import (
    STATE,
    checkpoints,
    find_newest,
    finish_checkpoint,
    is_sharded,
    keep_newest,
    read_checkpoint,
    save_checkpoint,
    save_weights,
    saved_shapes,
    set_aside_after,
)
from minimagen.storage.directory import TrainingDirectory, write_parameters
from minimagen.storage.files import begin_folder, cannot_write, read_json
from minimagen.storage.joining import start_directory
from minimagen.storage.pretrained import load_stage
from minimagen.training.distillation import keep_teacher
from minimagen.training.plan import Plan
from minimagen.training.processes.alone import Processes
from minimagen.training.resume import run_identity
from minimagen.training.trainer import Trainer

KEPT = 2  # checkpoints of each stage


class Keeper:
    """Saves and restores the stages of a run; rank 0 writes whole tensors, every rank its shards.

    All ranks must call its methods.

    Args:
        plan: What the run trains.
        directory: Where it writes.
        resume: Where it continues from, if it does.
        processes: Those that train together.
    """

    def __init__(
        self,
        plan: Plan,
        directory: TrainingDirectory,
        resume: TrainingDirectory | None,
        processes: Processes,
    ) -> None:
        self.directory, self.resume, self.processes = directory, resume, processes
        self._stages = plan.imagen.stages
        names = [stage.name for stage in self._stages]
        self._runs = {name: run_identity(plan, i) for i, name in enumerate(names)}
        self._identities = {name: plan.imagen.identity(i) for i, name in enumerate(names)}

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint and delete old ones."""
        name = trainer.learner.name
        folder = self.directory.checkpoint(name, trainer.step)
        state = trainer.state() | {"run": self._runs[name]}
        if self.processes.sharded:
            from minimagen.storage.sharded import save_shards  # takes a second to load

            part = self.processes.on_rank_0(begin_folder, folder)
            try:
                save_shards(part, trainer.tensors())
            except UserError:
                shutil.rmtree(part, ignore_errors=True)
                raise
            self.processes.on_rank_0(finish_checkpoint, folder, state)
        else:
            self.processes.on_rank_0(save_checkpoint, folder, trainer.tensors(), state)
        prefix = self.directory.checkpoint_prefix(name)
        self.processes.on_rank_0(keep_newest, self.directory.tmp, prefix, KEPT)

    def save_weights(self, trainer: Trainer, best: bool) -> None:
        """Write the averaged weights for inference, whole; also as the best ones if they are."""
        name = trainer.learner.name
        identity = self._identities[name].model_dump(mode="json")
        header = {"stage": identity, "step": trainer.step}
        average = self.processes.gathered(trainer.ema.state())
        self.processes.on_rank_0(save_weights, self.directory.weights(name), average, header)
        if best:
            path = self.directory.best_weights(name)
            self.processes.on_rank_0(save_weights, path, average, header)

    def restore(self, trainer: Trainer) -> bool:
        """Let the trainer continue after the newest checkpoint; False where there is none."""
        if self.resume is None:
            return False
        tmp = self.directory.tmp
        prefix = self.directory.checkpoint_prefix(trainer.learner.name)
        folder = self.processes.on_rank_0(find_newest, tmp, prefix)
        if folder is None:
            return False
        if self.processes.sharded or is_sharded(folder):
            from minimagen.storage.sharded import load_shards

            tensors = trainer.targets(saved_shapes(folder))
            load_shards(folder, tensors, alone=not self.processes.sharded)
            trainer.load(tensors, read_json(folder / STATE))
        else:
            trainer.load(*read_checkpoint(folder))
        self.processes.on_rank_0(set_aside_after, tmp, prefix, trainer.step)
        return True

    def take_over(self) -> None:
        """Copy what the resumed directory holds of all stages, before any of them goes on.

        So a run that stops in its first stage has lost nothing of the later ones.
        """
        if self.resume is not None and not _same(self.resume, self.directory):
            self.processes.on_rank_0(_copy, self.resume, self.directory)

    def load_weights(self, i: int) -> None:
        """Load what the directory holds of a stage that another job trains, if it does."""
        stage = self._stages[i]
        path = self.directory.weights(stage.name)
        if path.is_file():
            load_stage(stage, path, self._identities[stage.name])


def open_directory(
    plan: Plan,
    output: str | Path | None,
    resume: TrainingDirectory | None,
    teacher: TrainingDirectory | None,
) -> TrainingDirectory:
    """Return where the run writes, with its parameters and the captions of its sheets.

    Raises:
        UserError: If ``output`` is taken or cannot be made.
    """
    if resume and output is not None and _same(resume, TrainingDirectory(output)):
        directory = resume
        write_parameters(directory.parameters, plan.parameters)
    else:
        also = partial(keep_teacher, teacher, plan.chosen) if teacher else None
        directory = start_directory(output, plan.parameters, plan.chosen, resume is None, also)
    directory.sample_captions.write_text("\n".join(plan.captions) + "\n", "utf-8")
    return directory


def _same(one: TrainingDirectory, other: TrainingDirectory) -> bool:
    return one.path.resolve() == other.path.resolve()


def _copy(source: TrainingDirectory, target: TrainingDirectory) -> None:
    """Copy finished checkpoints and weights."""
    try:
        for folder in checkpoints(source.tmp, "unet_"):
            shutil.copytree(folder, target.tmp / folder.stem)
        for file in source.state_dicts.glob("*.safetensors"):
            shutil.copyfile(file, target.state_dicts / file.name)
    except (OSError, shutil.Error) as error:
        raise cannot_write(target.path, error) from None
