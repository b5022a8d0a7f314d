"""May a run be continued from the checkpoints of a training directory?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimagen.config import DataConfig, ImagenConfig, LearnerTrainingConfig
from minimagen.data.dataset import count_of
from minimagen.errors import UserError
from minimagen.storage.checkpoint import STATE, checkpoints, find_newest
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import read_json
from minimagen.storage.pretrained import (
    PartIdentity,
    check_finished,
    first_difference,
    is_finished,
)
from minimagen.training.plan import Plan

MAY_CHANGE = (
    "steps, epochs, minutes, chckpt_num, keep_checkpoints, num_workers, accum_iter, "
    "activation_checkpointing, compile, tracker"
)


def run_identity(plan: Plan, i: int) -> dict[str, Any]:
    """Return what must not change when learner ``i`` is resumed; kept in its checkpoints, JSON.

    All that the weights' bits depend on, except for the folder of the data: it may have moved.
    """
    imagen, config, data, training = plan.imagen, plan.config, plan.data, plan.training
    counts = {f"{h} x {w}": n for (h, w), n in training.sizes.items() if n is not None}
    return {
        "stage": imagen.identity(i).model_dump(mode="json", exclude={"stage": {"sampling"}}),
        "trained_with": imagen.learners[i].trained_with,
        "max_num_words": imagen.config.max_num_words,
        "optimization": _optimization(config.learners[i]) | {"batch_size": config.batch_size_of(i)},
        "seed": config.seed,
        "precision": config.precision,
        "data": data.model_dump(mode="json") | {"dataset": Path(data.dataset).name},
        "content": training.identity,
        "pictures": (counts or None) if data.aspect_buckets else count_of(training),
    }


def _optimization(stage: LearnerTrainingConfig) -> dict[str, Any]:
    return stage.model_dump(mode="json", exclude={"share", "batch_size"})


def check_resumable(plan: Plan, resume: TrainingDirectory) -> None:
    """Raise a UserError unless every checkpoint is whole, fits its run and is not past its end.

    Called before the new directory is made, so that a refused run leaves nothing behind.
    """
    from minimagen.storage.sharded import saved_shapes  # takes a second

    _check_frozen(plan, resume)
    for i in plan.chosen:
        learner, title = plan.imagen.learners[i], plan.imagen.config.title(i)
        folder = find_newest(resume.tmp, resume.checkpoint_prefix(learner.name))
        if folder is None:
            continue
        theirs = f"the checkpoints of {title} in {resume}"
        state = read_json(folder / STATE)
        if "run" not in state:
            raise UserError(f"{theirs} are too old to say of which run they are")
        begun = state["step"] > 0
        own = plan.imagen.identity(i)
        if difference := _difference(state["run"], run_identity(plan, i), own, begun):
            raise UserError(
                f"{theirs} belong to another run: {difference}; restore that (a resumed run "
                f"may change {MAY_CHANGE} and the place of the data), or train a new one"
            )
        shapes = {f"model.{n}": p.shape for n, p in learner.named_parameters()}
        found = {n: s for n, s in saved_shapes(folder).items() if n.startswith("model.")}
        if found != shapes:
            raise UserError(
                f"{theirs} hold another network than this version of the program builds from "
                "its parameters"
            )
        if state["step"] > plan.steps[i]:
            raise UserError(
                f"{title} of {resume} already has {state['step']} steps, more than the "
                f"{plan.steps[i]} asked for; give more `steps` or `epochs`"
            )


def check_parts(plan: Plan, directory: TrainingDirectory | None) -> None:
    """Raise a UserError unless what the chosen stages are trained with is trained, or will be.

    Args:
        plan: What the run trains.
        directory: Where parts may be that another run has trained.
    """
    config = plan.imagen.config
    _check_named(config)
    for i, name in enumerate(config.learner_names[: config.first_stage]):
        users = [s for s in config.stages_with(name) if config.first_stage + s in plan.chosen]
        if not users or i in plan.chosen or (directory and is_finished(directory, name)):
            continue
        if _comes_from_elsewhere(plan, directory, name, i):
            continue
        raise UserError(
            f"stage {users[0]} is trained with {name}, which is not trained yet: train it before "
            f"(`learners` {name}), or leave `learners` and `stages` out to train all in order"
        )


def _check_named(config: ImagenConfig) -> None:
    """Raise a UserError where a part is named by a directory whose training has not ended."""
    for name in {stage.autoencoder for stage in config.stages}:
        if isinstance(name, str) and (directory := TrainingDirectory(name)).has_parameters:
            check_finished(directory, "autoencoder_0")
    encoder = Path(config.text_encoder_name)
    if (encoder / "parameters" / "clip.json").is_file():
        check_finished(TrainingDirectory(encoder), "clip")


def _comes_from_elsewhere(
    plan: Plan, directory: TrainingDirectory | None, name: str, i: int
) -> bool:
    """Return whether a part is that of the plan's source, and no job trains it on."""
    if directory is not None and directory.claim(name).exists():
        return False
    source = plan.config.source
    return source is not None and i in source.stages


def _check_frozen(plan: Plan, resume: TrainingDirectory) -> None:
    """Raise a UserError if what a stage was trained with would be trained on."""
    config = plan.imagen.config
    for i in (i for i in plan.chosen if i < config.first_stage):
        name = config.learner_names[i]
        folder = find_newest(resume.tmp, resume.checkpoint_prefix(name))
        if folder is None or read_json(folder / STATE)["step"] >= plan.steps[i]:
            continue
        for stage in config.stages_with(name):
            own = config.learner_names[config.first_stage + stage]
            prefix = resume.checkpoint_prefix(own)
            kept = checkpoints(resume.tmp, prefix)
            if kept and int(kept[-1].stem.removeprefix(prefix)) > 0:
                raise UserError(
                    f"{name} would be trained on, and stage {stage} was trained with it as it is; "
                    f"give `learners` {own} to go on with that, or train both anew"
                )


def _difference(
    saved: Mapping[str, Any], now: Mapping[str, Any], learner: PartIdentity, begun: bool
) -> str:
    """Return the first difference between two runs in words; "" where there is none.

    What has not ``begun`` holds the weights of a source, which had other parts.
    """
    where = "its run"
    before, after = dict(saved), dict(now)
    optimization = dict(saved["optimization"])  # fields that it is too old to have: the defaults
    size = {"batch_size": optimization.pop("batch_size")}
    before["optimization"] = _optimization(LearnerTrainingConfig.read(optimization, where)) | size
    before["data"] = DataConfig.read(saved["data"], where).model_dump(mode="json")
    if "content" in saved:  # data is known by its content, earlier by its name
        after["data"] = {**now["data"], "dataset": before["data"]["dataset"]}
    else:
        del after["content"]
    before.setdefault("trained_with", now["trained_with"])  # it may be too old to say
    after["stage"] = before["stage"]  # compared below, by its own rules
    if found := first_difference(before, after):
        return found
    kept = type(learner).read(saved["stage"], where)
    return (kept if begun else kept.with_parts_of(learner)).difference(learner)
