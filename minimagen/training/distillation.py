"""The teacher of a run that distils: what it must be, and where the run keeps it."""

import shutil
from collections.abc import Sequence
from functools import partial

import torch

from minimagen.config import ImagenConfig
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.stages.distillation import DistilledStage
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.storage.files import cannot_write, replace


def kept_teacher(directory: TrainingDirectory | None) -> TrainingDirectory | None:
    """Return the teacher that a training directory keeps, if it does: a directory like it."""
    if directory is None or not directory.teacher.is_dir():
        return None
    return TrainingDirectory.open(directory.teacher)


def learn(
    imagen: Imagen,
    teacher: TrainingDirectory | None,
    chosen: Sequence[int],
    device: torch.device,
) -> None:
    """Let every stage begin as its teacher, and the chosen ones learn from them on ``device``.

    Raises:
        UserError: A stage is to be distilled and has no teacher, or not one of its kind.
    """
    for i in chosen:
        if imagen.config.stages[i].distilled_steps is not None and teacher is None:
            raise UserError(
                f"stage {i} is to be distilled from a trained one; name its training directory "
                "with --DISTILL"
            )
    if teacher is None:
        return
    _check(imagen.config, read_parameters(teacher.parameters).imagen, teacher)
    trained = Imagen.from_directory(teacher.path, imagen.text_encoder)
    for i, (stage, its_teacher) in enumerate(zip(imagen.stages, trained.stages, strict=True)):
        stage.load_state_dict(its_teacher.state_dict())
        if isinstance(stage, DistilledStage) and i in chosen:
            stage.learn_from(its_teacher.to(device))


def _check(own: ImagenConfig, theirs: ImagenConfig, teacher: TrainingDirectory) -> None:
    """Raise a UserError unless ``own`` is ``theirs`` but for stages that are distilled."""
    steps = [stage.distilled_steps for stage in own.stages]
    if len(steps) != len(theirs.stages):
        raise UserError(f"{teacher} has {len(theirs.stages)} stages, not {len(steps)}")
    stages = tuple(
        stage.distilled(n) if n is not None and n != stage.distilled_steps else stage
        for n, stage in zip(steps, theirs.stages, strict=True)
    )
    if theirs.replace(stages=stages) != own:
        raise UserError(
            f"{teacher} is no teacher of this cascade: their networks, sizes or text encoders "
            "differ; give the training directory whose stages are to paint in fewer steps"
        )
    for i, (n, stage) in enumerate(zip(steps, theirs.stages, strict=True)):
        more = stage.distilled_steps
        if n is not None and more is not None and more % n:
            raise UserError(
                f"stage {i} of {teacher} was distilled to {more} steps itself: it can teach a "
                f"divisor of them, not {n}"
            )


def keep_teacher(imagen: Imagen, teacher: TrainingDirectory, directory: TrainingDirectory) -> None:
    """Copy the teacher, whole or not at all, and the weights of stages that are not distilled.

    Raises:
        UserError: If it cannot be written.
    """
    target = directory.teacher
    part = target.with_name(f"{target.name}.part")
    if not target.is_dir():
        try:
            for folder in (teacher.parameters, teacher.state_dicts):
                shutil.copytree(folder, part / folder.name, dirs_exist_ok=True)
            part.rename(target)
        except (OSError, shutil.Error) as error:
            raise cannot_write(target, error) from None
    for i, stage in enumerate(imagen.config.stages):
        if stage.distilled_steps is None and not directory.weights(i).is_file():
            source = teacher.weights(i)
            replace(directory.weights(i), partial(shutil.copyfile, source))
