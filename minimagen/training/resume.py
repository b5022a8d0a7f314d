"""May a run be continued from the checkpoints of a training directory?"""

from collections.abc import Sequence

from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.storage.checkpoint import load_newest
from minimagen.storage.directory import TrainingDirectory


def check_resumable(
    imagen: Imagen, resume: TrainingDirectory, steps: Sequence[int], chosen: Sequence[int]
) -> None:
    """Raise a UserError unless every checkpoint is whole, fits its stage and is not past its end.

    Called before the new directory is made, so that a refused run leaves nothing behind.

    Args:
        imagen: The cascade as the directory's parameters describe it.
        resume: The training directory to continue from.
        steps: Optimizer steps asked for, of every stage.
        chosen: The stages to train.
    """
    for i in chosen:
        checkpoint = load_newest(resume.tmp, resume.checkpoint_prefix(i))
        if checkpoint is None:
            continue
        shapes = {f"model.{n}": p.shape for n, p in imagen.stages[i].named_parameters()}
        saved = {n: t.shape for n, t in checkpoint.tensors.items() if n.startswith("model.")}
        if saved != shapes:
            raise UserError(
                f"the checkpoints of stage {i} in {resume} belong to another configuration than "
                f"its {resume.parameters}"
            )
        if checkpoint.state["step"] > steps[i]:
            raise UserError(
                f"stage {i} of {resume} already has {checkpoint.state['step']} steps, more than "
                f"the {steps[i]} asked for; give more STEPS or EPOCHS"
            )
