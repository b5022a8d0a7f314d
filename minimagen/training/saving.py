"""What a run keeps on disk of its stages: checkpoints to resume from, weights for inference."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.storage.checkpoint import (
    STATE,
    begin_checkpoint,
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
from minimagen.storage.files import read_json
from minimagen.training.processes import Processes
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

            part = self.processes.on_main(lambda: begin_checkpoint(folder))
            try:
                save_shards(part, tensors)
            except UserError:
                shutil.rmtree(part, ignore_errors=True)
                raise
        self.processes.on_main(write)

    def save_weights(self, trainer: Trainer) -> None:
        """Write the averaged weights for inference, whole."""
        header = {"stage": self.imagen.stage_identity(trainer.index), "step": trainer.step}
        path = self.directory.weights(trainer.index)
        average = self.processes.whole(trainer.ema.state())
        self.processes.on_main(lambda: save_weights(path, average, header))

    def restore(self, trainer: Trainer) -> bool:
        """Let the trainer continue after the newest checkpoint; False where there is none."""
        if self.resume is None:
            return False
        resume, prefix = self.resume, self.resume.checkpoint_prefix(trainer.index)
        folder = self.processes.on_main(lambda: find_newest(resume.tmp, prefix))
        if folder is None:
            return False
        if self.processes.sharded or is_sharded(folder):
            from minimagen.storage.sharded import load_shards

            tensors = trainer.targets(saved_shapes(folder))
            load_shards(folder, tensors, alone=not self.processes.sharded)
            trainer.load(tensors, read_json(folder / STATE))
        else:
            trainer.load(*read_checkpoint(folder))

        def tidy() -> None:
            if resume.path.resolve() == self.directory.path.resolve():
                set_aside_after(self.directory.tmp, prefix, trainer.step)
            self._copy_weights(trainer.index)

        self.processes.on_main(tidy)
        return True

    def take_over(self, i: int) -> None:
        """Keep what the resumed directory holds of a stage that is not trained now."""
        resume = self.resume
        assert resume is not None

        def copy() -> None:
            if resume.path.resolve() != self.directory.path.resolve():
                for folder in resume.tmp.glob(f"{resume.checkpoint_prefix(i)}*"):
                    shutil.copytree(folder, self.directory.tmp / folder.name)
            self._copy_weights(i)

        self.processes.on_main(copy)
        self.load_weights(i)

    def load_weights(self, i: int) -> None:
        """Load what the directory holds of a stage that another job trains, if it does."""
        if self.directory.weights(i).is_file():
            self.imagen.load_stage(i, self.directory.weights(i))

    def _copy_weights(self, i: int) -> None:
        assert self.resume is not None
        source, target = self.resume.weights(i), self.directory.weights(i)
        if source.is_file() and source.resolve() != target.resolve():
            shutil.copyfile(source, target)
