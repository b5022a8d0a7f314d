"""What a run keeps on disk of its stages: checkpoints to resume from, weights for inference."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minimagen.errors import UserError
from minimagen.imagen import Imagen
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
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import begin_folder, cannot_write, read_json
from minimagen.storage.pretrained import load_stage
from minimagen.training.processes.alone import Processes
from minimagen.training.trainer import Trainer

KEPT = 2  # checkpoints of each stage


@dataclass(frozen=True)
class Keeper:
    """Saves and restores the stages of a run; only the main process writes, but for shards.

    Every process must call its methods.

    Attributes:
        imagen: The cascade.
        directory: Where this run writes.
        resume: Where it continues from, if it does.
        identities: What must not change on resume, of every stage.
        processes: Those that train together.
    """

    imagen: Imagen
    directory: TrainingDirectory
    resume: TrainingDirectory | None
    identities: Sequence[Mapping[str, Any]]
    processes: Processes

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint and delete old ones."""
        folder = self.directory.checkpoint(trainer.index, trainer.step)
        tensors = trainer.tensors()
        state = trainer.state() | {"run": self.identities[trainer.index]}

        def write() -> None:
            if self.processes.sharded:
                finish_checkpoint(folder, state)
            else:
                save_checkpoint(folder, tensors, state)
            keep_newest(self.directory.tmp, self.directory.checkpoint_prefix(trainer.index), KEPT)

        if self.processes.sharded:
            from minimagen.storage.sharded import save_shards  # takes a second to load

            part = self.processes.on_main(lambda: begin_folder(folder))
            try:
                save_shards(part, tensors)
            except UserError:
                shutil.rmtree(part, ignore_errors=True)
                raise
        self.processes.on_main(write)

    def save_weights(self, trainer: Trainer, best: bool) -> None:
        """Write the averaged weights for inference, whole; also as the best ones if they are."""
        identity = self.imagen.identity(trainer.index).model_dump(mode="json")
        header = {"stage": identity, "step": trainer.step}
        average = self.processes.whole(trainer.ema.state())

        def write() -> None:
            save_weights(self.directory.weights(trainer.index), average, header)
            if best:
                save_weights(self.directory.best_weights(trainer.index), average, header)

        self.processes.on_main(write)

    def restore(self, trainer: Trainer) -> bool:
        """Let the trainer continue after the newest checkpoint; False where there is none."""
        if self.resume is None:
            return False
        tmp, prefix = self.directory.tmp, self.directory.checkpoint_prefix(trainer.index)
        folder = self.processes.on_main(lambda: find_newest(tmp, prefix))
        if folder is None:
            return False
        if self.processes.sharded or is_sharded(folder):
            from minimagen.storage.sharded import load_shards

            tensors = trainer.targets(saved_shapes(folder))
            load_shards(folder, tensors, alone=not self.processes.sharded)
            trainer.load(tensors, read_json(folder / STATE))
        else:
            trainer.load(*read_checkpoint(folder))
        self.processes.on_main(lambda: set_aside_after(tmp, prefix, trainer.step))
        return True

    def take_over(self) -> None:
        """Copy what the resumed directory holds of all stages, before any of them goes on.

        So a run that stops in its first stage has lost nothing of the later ones.
        """
        resume = self.resume
        if resume is not None and resume.path.resolve() != self.directory.path.resolve():
            self.processes.on_main(lambda: _copy(resume, self.directory))

    def load_weights(self, i: int) -> None:
        """Load what the directory holds of a stage that another job trains, if it does."""
        if self.directory.weights(i).is_file():
            stage, path = self.imagen.stages[i], self.directory.weights(i)
            load_stage(stage, path, self.imagen.identity(i))


def _copy(source: TrainingDirectory, target: TrainingDirectory) -> None:
    """Copy finished checkpoints and weights."""
    try:
        for folder in checkpoints(source.tmp, "unet_"):
            shutil.copytree(folder, target.tmp / folder.stem)
        for file in source.state_dicts.glob("*.safetensors"):
            shutil.copyfile(file, target.state_dicts / file.name)
    except (OSError, shutil.Error) as error:
        raise cannot_write(target.path, error) from None
