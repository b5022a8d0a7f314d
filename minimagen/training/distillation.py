"""The teacher of a run that distils: what it must be, and where the run keeps it."""

import shutil
from collections.abc import Sequence

from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.storage.directory import TrainingDirectory, read_imagen_config
from minimagen.storage.files import cannot_write


def kept_teacher(directory: TrainingDirectory | None) -> TrainingDirectory | None:
    """Return the teacher that a training directory keeps, if it does: a directory like it."""
    if directory is None or not directory.teacher.is_dir():
        return None
    return TrainingDirectory.open(directory.teacher)


def learners_to_teach(
    imagen: Imagen,
    teacher: TrainingDirectory | None,
    stages: Sequence[int] | None = None,
    learners: Sequence[str] | None = None,
) -> Sequence[int]:
    """Return the places of which of ``stages``, or of ``learners``, all by default, a run trains.

    With a teacher (which may be distilled itself), only stages that have something to learn.

    Raises:
        UserError: A stage is asked for that learns nothing, or the teacher is of another kind.
    """
    own, first = imagen.config, imagen.config.first_stage
    chosen = own.chosen_learners(stages, learners)
    if teacher is None:
        for i in (place - first for place in chosen if place >= first):
            if own.stages[i].distilled_steps is not None:
                raise UserError(
                    f"stage {i} is to be distilled from a trained one; name its training "
                    "directory as `teacher`"
                )
        return chosen
    theirs = read_imagen_config(teacher.parameters)
    taught, learning = list(theirs.stages), []
    for i, (stage, other) in enumerate(zip(own.stages, theirs.stages, strict=False)):
        if stage.distilled_steps not in (None, other.distilled_steps):
            taught[i] = other.distilled(stage.distilled_steps)
            learning.append(first + i)
    if theirs.replace(stages=taught) != own:
        raise UserError(
            f"{teacher} is no teacher of this cascade: their stages, sizes or text encoders "
            "differ; give the training directory whose stages are to sample in fewer steps"
        )
    for i in chosen if (stages, learners) != (None, None) else ():
        if i not in learning:
            name = own.title(i)
            raise UserError(f"{name} has nothing to learn from {teacher}: both sample alike")
    if not learning:
        raise UserError(f"{teacher} already samples in so many steps; give fewer `timesteps`")
    return [i for i in chosen if i in learning]


def keep_teacher(
    teacher: TrainingDirectory, learning: Sequence[int], directory: TrainingDirectory
) -> None:
    """Copy the teacher into a directory, and the weights of stages that do not learn.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        for folder in (teacher.parameters, teacher.state_dicts):
            shutil.copytree(folder, directory.teacher / folder.name)
        for i, name in enumerate(read_imagen_config(teacher.parameters).learner_names):
            if i not in learning:
                shutil.copyfile(teacher.weights(name), directory.weights(name))
    except (OSError, shutil.Error) as error:
        raise cannot_write(directory.teacher, error) from None
