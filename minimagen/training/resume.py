"""May a run be continued from the checkpoints of a training directory?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minimagen.config import DataConfig, TrainingConfig
from minimagen.data.images.buckets import Buckets
from minimagen.data.images.stream import PictureStream, TrainingData
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.storage.checkpoint import STATE, find_newest, saved_shapes
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import read_json


def run_identity(
    imagen: Imagen, config: TrainingConfig, data: DataConfig, training: TrainingData, i: int
) -> dict[str, Any]:
    """Return what must not change when stage ``i`` is resumed; kept in its checkpoints, JSON.

    A resumed run goes on with the same bits only from the same pictures in the same order, drawn
    with the same seed in the same batches, with the same network, objective and optimizer. The
    data may have moved to another folder.
    """
    stage = config.stages[i].model_dump(mode="json", exclude={"share", "batch_size"})
    told = data.model_dump(mode="json") | {"dataset": Path(data.dataset).name}
    if not data.aspect_buckets:
        del told["aspect_buckets"]  # as in checkpoints from before there were buckets
    return {
        "stage": imagen.stage_identity(i),
        "max_num_words": imagen.config.max_num_words,
        "optimization": stage | {"batch_size": config.batch_size_of(i)},
        "seed": config.seed,
        "precision": config.precision,
        "data": told,
        "pictures": _count(training),
    }


def _count(training: TrainingData) -> int | dict[str, int] | None:
    if isinstance(training, Buckets):
        return training.counts
    return None if isinstance(training, PictureStream) else len(training)


def check_resumable(
    imagen: Imagen,
    resume: TrainingDirectory,
    identities: Sequence[Mapping[str, Any]],
    steps: Sequence[int],
    chosen: Sequence[int],
) -> None:
    """Raise a UserError unless every checkpoint is whole, fits its run and is not past its end.

    Called before the new directory is made, so that a refused run leaves nothing behind.

    Args:
        imagen: The cascade as the directory's parameters describe it.
        resume: The training directory to continue from.
        identities: Of every stage's run, see ``run_identity``.
        steps: Optimizer steps asked for, of every stage.
        chosen: The stages to train.
    """
    for i in chosen:
        folder = find_newest(resume.tmp, resume.checkpoint_prefix(i))
        if folder is None:
            continue
        state = read_json(folder / STATE)
        if difference := _difference(state.get("run"), identities[i]):
            raise UserError(
                f"the checkpoints of stage {i} in {resume} belong to another run: {difference}; "
                "restore what was changed, or train anew without --RESTART_DIRECTORY"
            )
        shapes = {f"model.{n}": p.shape for n, p in imagen.stages[i].named_parameters()}
        found = {n: s for n, s in saved_shapes(folder).items() if n.startswith("model.")}
        if found != shapes:
            raise UserError(
                f"the checkpoints of stage {i} in {resume} hold another network than this "
                "version of the program builds from its parameters"
            )
        if state["step"] > steps[i]:
            raise UserError(
                f"stage {i} of {resume} already has {state['step']} steps, more than "
                f"the {steps[i]} asked for; give more STEPS or EPOCHS"
            )


def _difference(saved: Any, now: Any, name: str = "") -> str:
    """Return the first difference between two nested values in words; "" where there is none."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in {**now, **saved}:
            part = f"{name}.{key}" if name else key
            if found := _difference(saved.get(key), now.get(key), part):
                return found
        return ""
    return "" if saved == now else f"{name or 'run'} was {saved!r}, is {now!r}"
