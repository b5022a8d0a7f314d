"""May a run be continued from the checkpoints of a training directory?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimagen.config import DataConfig, StageTrainingConfig
from minimagen.data.dataset import Dataset, count_of
from minimagen.errors import UserError
from minimagen.storage.checkpoint import STATE, find_newest, saved_shapes
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import read_json
from minimagen.storage.pretrained import Identity, first_difference
from minimagen.training.plan import Plan

MAY_CHANGE = "steps, epochs, chckpt_num, num_workers, accum_iter, activation_checkpointing, tracker"


def run_identity(plan: Plan, i: int) -> dict[str, Any]:
    """Return what must not change when stage ``i`` is resumed; kept in its checkpoints, JSON.

    A resumed run goes on with the same bits only from the same images in the same order, drawn
    with the same seed in the same batches, with the same network, objective and optimizer. The
    data may have moved to another folder.
    """
    imagen, config, data, training = plan.imagen, plan.config, plan.data, plan.training
    return {
        "stage": _stage(imagen.identity(i)),
        "max_num_words": imagen.config.max_num_words,
        "optimization": _optimization(config.stages[i]) | {"batch_size": config.batch_size_of(i)},
        "seed": config.seed,
        "precision": config.precision,
        "data": data.model_dump(mode="json") | {"dataset": Path(data.dataset).name},
        "content": training.identity,
        "pictures": _count(training) if data.aspect_buckets else count_of(training),
    }


def _stage(identity: Identity) -> dict[str, Any]:
    return identity.model_dump(mode="json", exclude={"stage": {"sampling"}})


def _optimization(stage: StageTrainingConfig) -> dict[str, Any]:
    return stage.model_dump(mode="json", exclude={"share", "batch_size"})


def _completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved identity, with the defaults of fields that it is too old to have."""
    optimization = dict(saved["optimization"])
    size = {"batch_size": optimization.pop("batch_size")}
    where = "its run"
    return {
        **saved,
        "optimization": _optimization(StageTrainingConfig.read(optimization, where)) | size,
        "data": DataConfig.read(saved["data"], where).model_dump(mode="json"),
    }


def _count(training: Dataset) -> dict[str, int] | None:
    """Return the number of images of each size, None for a stream."""
    counts = {f"{h} x {w}": n for (h, w), n in training.sizes.items() if n is not None}
    return counts or None


def _comparable(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``now`` with what ``saved`` has too: data is known by its content, earlier by name."""
    if "content" not in saved:
        return {key: value for key, value in now.items() if key != "content"}
    return {**now, "data": {**now["data"], "dataset": saved["data"]["dataset"]}}


def check_resumable(plan: Plan, resume: TrainingDirectory) -> None:
    """Raise a UserError unless every checkpoint is whole, fits its run and is not past its end.

    Called before the new directory is made, so that a refused run leaves nothing behind.
    """
    imagen, steps = plan.imagen, plan.steps
    for i in plan.chosen:
        folder = find_newest(resume.tmp, resume.checkpoint_prefix(imagen.stages[i].name))
        if folder is None:
            continue
        checkpoints = f"the checkpoints of stage {i} in {resume}"
        state = read_json(folder / STATE)
        if "run" not in state:
            raise UserError(f"{checkpoints} are too old to say of which run they are")
        if difference := _difference(state["run"], run_identity(plan, i), imagen.identity(i)):
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


def _difference(saved: Mapping[str, Any], now: Mapping[str, Any], stage: Identity) -> str:
    """Return the first difference between two runs in words; "" where there is none."""
    before = _completed(saved)
    after = {**_comparable(before, now), "stage": before["stage"]}
    if found := first_difference(before, after):
        return found
    return Identity.read(saved["stage"], "its run").difference(stage)
