"""A run that starts from the weights of a trained cascade: which it takes, and keeps to resume."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from minimagen.config import ImagenConfig
from minimagen.config.training import SourceConfig
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.storage.checkpoint import save_checkpoint, save_weights
from minimagen.storage.directory import Choices, TrainingDirectory
from minimagen.storage.pretrained import fingerprint_of, load_learners
from minimagen.training.plan import Plan
from minimagen.training.resume import run_identity


class Source(NamedTuple):
    """What a run starts from."""

    directory: TrainingDirectory
    weights: Choices = "final"
    """Which of its averaged weights."""


def start_from(imagen: Imagen, source: Source, chosen: Sequence[int]) -> SourceConfig:
    """Give the learners of ``imagen`` the weights that ``source`` has of them.

    One without weights there keeps those that it has.

    Raises:
        UserError: There are no weights of any, or they are those of another configuration; or a
            part is ``chosen`` to be trained on without a stage that the source has with it.
    """
    directory = source.directory
    learners = imagen.learners
    saved = [i for i, each in enumerate(learners) if directory.weights(each.name).is_file()]
    found = sorted({*saved, *(i for i, each in enumerate(learners) if each.comes_trained)})
    if not found:
        raise UserError(f"{directory} has no trained weights; give another one as `source`")
    _check_together(imagen.config, directory, found, chosen)
    load_learners(imagen, directory, source.weights, saved)
    first, stages = imagen.config.first_stage, imagen.config.stages
    owning = [s.owning_weights() if first + i in found else s for i, s in enumerate(stages)]
    imagen.config = imagen.config.replace(stages=owning)  # from now on in the new directory
    weights = fingerprint_of(nn.ModuleList([learners[i] for i in found]), "source")
    return SourceConfig(directory=str(directory), fingerprint=weights, stages=tuple(found))


def _check_together(
    config: ImagenConfig, source: TrainingDirectory, found: Sequence[int], chosen: Sequence[int]
) -> None:
    """Raise a UserError where a part would be trained on under a stage that stays as it is."""
    for name in (config.learner_names[i] for i in chosen if i < config.first_stage):
        users = [config.first_stage + stage for stage in config.stages_with(name)]
        if left := [user for user in users if user in found and user not in chosen]:
            both = ",".join([name, *(config.learner_names[user] for user in left)])
            raise UserError(
                f"{config.title(left[0])} of {source} was trained with its {name}, and does not "
                f"fit another one; give `learners` {both} to train both on"
            )


def keep_start(plan: Plan, directory: TrainingDirectory) -> None:
    """Write the weights that the stages start from, and checkpoints of them before the first step.

    So a stage that is not trained yet samples as the source's does, and a run that is resumed
    before a stage has begun finds its start, whatever becomes of the source.

    Raises:
        UserError: If it cannot be written.
    """
    assert plan.config.source is not None
    for i in plan.config.source.stages:
        stage = plan.imagen.learners[i]
        weights = {name: p.detach() for name, p in stage.named_parameters()}
        tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"ema.{name}": tensor.clone() for name, tensor in weights.items()}
        state = {"step": 0, "best_loss": None, "ema_updates": 0, "run": run_identity(plan, i)}
        save_checkpoint(directory.checkpoint(stage.name, 0), tensors, state)
        header = {"stage": plan.imagen.identity(i).model_dump(mode="json"), "step": 0}
        save_weights(directory.weights(stage.name), weights, header)


def announce_start(plan: Plan) -> Iterator[str]:
    """Yield a line for each learner on what it starts from."""
    source = plan.config.source
    if source is None:
        return
    for i in plan.chosen:
        title = plan.imagen.config.title(i)
        if i in source.stages:
            yield f"{title} starts from the weights of {source.directory}"
        else:
            yield f"{title} starts at random: {source.directory} has no weights of it"
