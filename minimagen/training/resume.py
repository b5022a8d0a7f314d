"""May a run be continued from the checkpoints of a training directory?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minimagen.config import DataConfig, StageConfig, StageTrainingConfig, TrainingConfig
from minimagen.data.dataset import Dataset, count_of
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.storage.checkpoint import STATE, find_newest, saved_shapes
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import read_json

MAY_CHANGE = "steps, epochs, chckpt_num, num_workers, accum_iter, activation_checkpointing, tracker"
OF_CASCADE = ("image_sizes", "text_encoder_name")  # beside the fields of a stage's configuration


def run_identity(
    imagen: Imagen, config: TrainingConfig, data: DataConfig, training: Dataset, i: int
) -> dict[str, Any]:
    """Return what must not change when stage ``i`` is resumed; kept in its checkpoints, JSON.

    A resumed run goes on with the same bits only from the same images in the same order, drawn
    with the same seed in the same batches, with the same network, objective and optimizer. The
    data may have moved to another folder.
    """
    cascade = imagen.config
    sizes = [list(size) for size in cascade.image_sizes[max(0, i - 1) : i + 1]]
    return {
        "stage": _stage(cascade.stages[i])
        | dict(zip(OF_CASCADE, (sizes, cascade.text_encoder_name), strict=True)),
        "max_num_words": cascade.max_num_words,
        "optimization": _optimization(config.stages[i]) | {"batch_size": config.batch_size_of(i)},
        "seed": config.seed,
        "precision": config.precision,
        "data": data.model_dump(mode="json") | {"dataset": Path(data.dataset).name},
        "content": training.identity,
        "pictures": _count(training) if data.aspect_buckets else count_of(training),
    }


def _stage(stage: StageConfig) -> dict[str, Any]:
    return stage.model_dump(mode="json", exclude={"sampling"})


def _optimization(stage: StageTrainingConfig) -> dict[str, Any]:
    return stage.model_dump(mode="json", exclude={"share", "batch_size"})


def _completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved identity, with the defaults of fields that it is too old to have."""
    stage, optimization = dict(saved["stage"]), dict(saved["optimization"])
    cascade = {name: stage.pop(name) for name in OF_CASCADE}
    size = {"batch_size": optimization.pop("batch_size")}
    where = "its run"
    return {
        **saved,
        "stage": _stage(StageConfig.read(stage, where)) | cascade,
        "optimization": _optimization(StageTrainingConfig.read(optimization, where)) | size,
        "data": DataConfig.read(saved["data"], where).model_dump(mode="json"),
    }


def _count(training: Dataset) -> dict[str, int] | None:
    """Return the number of images of each size, None where nobody has counted."""
    counts = {f"{h} x {w}": n for (h, w), n in training.sizes.items() if n is not None}
    return counts or None


def _comparable(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``now`` with what ``saved`` has too: data is known by its content, earlier by name."""
    if "content" not in saved:
        return {key: value for key, value in now.items() if key != "content"}
    return {**now, "data": {**now["data"], "dataset": saved["data"]["dataset"]}}


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
        checkpoints = f"the checkpoints of stage {i} in {resume}"
        state = read_json(folder / STATE)
        if "run" not in state:
            raise UserError(f"{checkpoints} are too old to say of which run they are")
        saved = _completed(state["run"])
        if difference := _difference(saved, _comparable(saved, identities[i])):
            raise UserError(
                f"{checkpoints} belong to another run: {difference}; restore that (a resumed run "
                f"may change {MAY_CHANGE} and the place of the data), or train a new one"
            )
        shapes = {f"model.{n}": p.shape for n, p in imagen.stages[i].named_parameters()}
        found = {n: s for n, s in saved_shapes(folder).items() if n.startswith("model.")}
        if found != shapes:
            raise UserError(
                f"{checkpoints} hold another network than this version of the program builds from "
                "its parameters"
            )
        if state["step"] > steps[i]:
            raise UserError(
                f"stage {i} of {resume} already has {state['step']} steps, more than the "
                f"{steps[i]} asked for; give more steps or epochs"
            )


def _difference(saved: Any, now: Any, name: str = "") -> str:
    """Return the first difference between two nested values in words; "" where there is none."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in {**now, **saved}:
            part = f"{name}.{key}" if name else key
            if found := _difference(saved.get(key), now.get(key), part):
                return found
        return ""
    return "" if saved == now else f"{name} was {saved!r}, is {now!r}"
