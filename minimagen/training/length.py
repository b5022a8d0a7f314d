"""How many steps a run takes: given as steps, as epochs, or as minutes that are measured."""

import copy
import math
import time
from collections.abc import Sequence

from minimagen.config import TrainingConfig
from minimagen.data.dataset import Dataset, count_of
from minimagen.data.loading.batches import training_batches
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.text.encoding import TextEncoder
from minimagen.training.processes.alone import Processes
from minimagen.training.trainer import Trainer

UNTIMED_STEPS = 2  # of each size: the first ones also allocate, choose kernels and start workers
TIMED_STEPS = 10  # of each stage at least, to turn minutes into steps
FAR = 10**9  # a step that is not reached: every timed step reads ahead like those of a long run
OVERHEAD = 0.93  # share of the minutes left for steps; the rest is validation, sheets, saving


def steps_of(
    imagen: Imagen,
    dataset: Dataset,
    config: TrainingConfig,
    encode: TextEncoder,
    chosen: Sequence[int],
    processes: Processes,
) -> tuple[int, ...]:
    """Return every stage's number of optimizer steps.

    Args:
        imagen: The cascade, where it will train.
        dataset: Training pictures.
        config: With one entry of ``stages`` for each stage.
        encode: Captions -> embeddings.
        chosen: The stages to train: minutes are for them together. Another stage gets as many
            steps as its share would be beside them, for a run that trains it later.
        processes: Those that train together; they agree on the time that a step takes.

    Raises:
        UserError: There is not one number of steps for each stage, or minutes cannot be measured.
    """
    count = len(imagen.stages)
    if isinstance(config.steps, tuple):
        if len(config.steps) != count:
            raise UserError(f"steps has {len(config.steps)} entries for {count} stages")
        return config.steps
    if config.steps is not None:
        return (config.steps,) * count
    if config.epochs is not None:
        counted = count_of(dataset)
        if counted is None:
            raise UserError("a stream has no length, so no epochs: give steps or minutes instead")
        images = config.epochs * counted
        return tuple(math.ceil(images / config.batch_size_of(i)) for i in range(count))
    assert config.minutes is not None
    if processes.sharded:
        raise UserError("`minutes` cannot be used with `fsdp`; give `steps` or `epochs`")
    seconds = 60 * config.minutes * OVERHEAD
    shares = [stage.share for stage in config.stages]
    together = sum(shares[i] for i in chosen)
    costs = [_seconds_per_step(imagen, dataset, config, encode, i, processes) for i in range(count)]
    return tuple(
        max(1, int(seconds * share / together / cost))
        for share, cost in zip(shares, costs, strict=True)
    )


def _seconds_per_step(
    imagen: Imagen,
    dataset: Dataset,
    config: TrainingConfig,
    encode: TextEncoder,
    i: int,
    processes: Processes,
) -> float:
    """Time a few steps of a copy of stage ``i``: each reads one batch; text is encoded before."""
    sizes = len(dataset.sizes)
    untimed, timed = UNTIMED_STEPS * sizes, max(TIMED_STEPS, UNTIMED_STEPS * sizes)
    trainer = Trainer(
        copy.deepcopy(imagen.stages[i]),
        i,
        config.stages[i],
        untimed + timed,
        config.seed,
        config.accum_iter,
        config.precision,
        processes,
    )
    batches = training_batches(
        dataset,
        encode,
        config.batch_size_of(i),
        config.seed,
        0,
        FAR,
        config.num_workers,
        processes.rank,
        processes.world,
    )
    started = time.perf_counter()
    for batch in processes.in_step(batches):
        trainer.train_step(batch.at(imagen.stages[i].image_sizes, imagen.config.image_sizes[-1]))
        if trainer.step == untimed:
            started = time.perf_counter()
        if trainer.done:
            break
    return processes.mean(time.perf_counter() - started) / timed
