"""train(): cascade + data + configuration -> training directory."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from minimagen.config import DataConfig, TrainingConfig
from minimagen.data.dataset import Dataset, Samples
from minimagen.data.images.stream import PROMISE
from minimagen.data.indexed import as_dataset
from minimagen.data.words import words_of
from minimagen.device import device_name, resolved_precision
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.networks.unet import count_parameters
from minimagen.stages.build import teach
from minimagen.stages.stage import encode_own
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.environment import add_session, session
from minimagen.storage.pretrained import load_frozen
from minimagen.training.distillation import kept_teacher, learners_to_teach
from minimagen.training.finetuning import Source, announce_start, start_from
from minimagen.training.forecast import duration, forecast, length
from minimagen.training.interruption import StopSignals
from minimagen.training.learner_run import LearnerRun
from minimagen.training.length import with_lengths
from minimagen.training.plan import Plan, cache_captions, check_settings, make_plan
from minimagen.training.processes.alone import Processes
from minimagen.training.processes.launch import launched
from minimagen.training.resume import check_parts
from minimagen.training.saving import Keeper, existing, open_directory
from minimagen.training.tracking import Tracker


def train(
    imagen: Imagen,
    dataset: Dataset | Samples,
    config: TrainingConfig,
    *,
    data: DataConfig | None = None,
    output: str | Path | None = None,
    stages: Sequence[int] | None = None,
    learners: Sequence[str] | None = None,
    device: str | torch.device = "auto",
    resume: TrainingDirectory | None = None,
    teacher: TrainingDirectory | None = None,
    source: Source | None = None,
    processes: Processes | None = None,
    wording: Callable[[str], str] = str,
) -> TrainingDirectory:
    """Train CLIP, autoencoders and stages one after the other; return the training directory.

    Args:
        imagen: The cascade; its parts are trained in place and end with the averaged weights.
        dataset: Captioned images of the size of the last stage, or of its aspect buckets: from
            `load_dataset`, or your own class with a length and a ``minimagen.Sample`` by index.
        config: Steps, rates, batch size.
        data: The share for validation and its size; what the data set says of itself counts.
        output: The training directory, ``training_<time>`` by default. One that trains other stages
            of the same cascade is joined; that of ``resume`` is continued in place.
        stages: Which stages to train; everything by default.
        learners: The names of what to train, such as ``clip`` or ``unet_0``, instead of ``stages``.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        resume: Continue from the checkpoints of this directory.
        teacher: What distilled stages learn from; a resumed run has kept its own.
        source: The trained cascade whose weights the stages start from; not needed to resume.
        processes: Those that train together, by default ``launched(device)``: a launcher's, or one.
        wording: Rewrites each line of the log: messages name parameters in back quotes.

    Raises:
        UserError: If a setting is not valid or nothing can be written.
        Interrupted: After Ctrl-C or SIGTERM, with everything saved.
        NonFiniteLossError: If the loss is not finite; the last checkpoint has good weights.
        OutOfMemory: If a step needs more memory than the device has.
    """
    processes = processes or launched(device)
    teacher = kept_teacher(resume) or teacher
    with processes.together():
        chosen = learners_to_teach(imagen, teacher, stages, learners)
        config = config.for_learners(len(imagen.learners))
        if resume is None:
            config = config.replace(source=source and start_from(imagen, source, chosen))
        check_settings(config, imagen.learners, chosen, processes.world, processes.sharded)
        _prepare(imagen, teacher, resume, chosen, config, processes)
        dataset = as_dataset(dataset)
        plan = make_plan(imagen, dataset, config, data or DataConfig(), chosen, processes)
    plan = with_lengths(plan, resume)
    processes.on_rank_0(check_parts, plan, resume or existing(output) or teacher)
    with ExitStack() as held:
        directory = processes.on_rank_0(open_directory, plan, output, resume, teacher, held)
        processes.on_rank_0(_record_session, plan, directory)
        announced = _announcements(plan, dataset, directory, resume, teacher)
        _run(plan, Keeper(plan, directory, resume is not None), directory, announced, wording)
    return directory


def _run(
    plan: Plan,
    keeper: Keeper,
    directory: TrainingDirectory,
    announced: Iterator[str],
    wording: Callable[[str], str],
) -> None:
    """Train as planned, with a log, until the end or a signal."""
    rank, keys = plan.processes.rank, plan.imagen.config.learner_keys
    with (
        Tracker(directory, plan.steps, plan.config.tracker, rank == 0, keys, wording) as tracker,
        StopSignals(plan.processes.world > 1) as signals,
    ):
        begun = time.monotonic()
        for line in announced:
            tracker.log(line)
        _train_learners(plan, keeper, tracker, signals, begun)


@contextmanager
def same_threads_after() -> Iterator[None]:
    """Let the number of this process's threads be what it was: minutes change it."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train_learners(
    plan: Plan, keeper: Keeper, tracker: Tracker, signals: StopSignals, begun: float
) -> None:
    """Train the chosen learners in order; the others take part with their saved weights.

    Where they follow the clock, each ends when its minutes and those of the ones before it are
    spent: what one has left, or takes too long, is for the next one.
    """
    available, expected, started = 0.0, forecast(plan), time.monotonic()
    for i in range(len(plan.imagen.learners)):
        if i == plan.imagen.config.first_stage:
            cache_captions(plan.imagen, plan.training.endless)
        if i in plan.chosen:
            available += plan.seconds(i)
            clock = plan.clock(available, begun) if plan.follows_clock(i) else None
            with same_threads_after():
                available -= LearnerRun(i, plan, keeper, tracker, signals, expected, clock).train()
            begun = time.monotonic()
        else:
            keeper.load_weights(i)
    sheet = f"; newest sheet: {tracker.newest_sheet}" if tracker.newest_sheet else ""
    finished = f"training finished in {duration(time.monotonic() - started)}{sheet}"
    for note in (*plan.imagen.text_encoder.notes(), finished):
        tracker.log(note)


def _prepare(
    imagen: Imagen,
    teacher: TrainingDirectory | None,
    resume: TrainingDirectory | None,
    chosen: Sequence[int],
    config: TrainingConfig,
    processes: Processes,
) -> None:
    """Give the stages their teacher and what they are trained with; move all to its device."""
    if processes.sharded and any(i < imagen.config.first_stage for i in chosen):
        raise UserError(
            "`fsdp` shards stages only: train what they are trained with first, in a run without "
            "it (`learners`)"
        )
    if teacher is not None:
        load_frozen(imagen, teacher)
        trained = Imagen.from_directory(teacher.path, imagen.text_encoder)
        teach(imagen.stages, trained.stages, processes.device)
    for i, learner in enumerate(imagen.learners):
        learner.compile_blocks(config.compile)
        learner.recompute_activations(config.activation_checkpointing)
        if not (processes.sharded and i in chosen):  # those move block by block
            learner.to(processes.device)
        learner.move_frozen(processes.device)
    if resume is not None:
        load_frozen(imagen, resume)
    imagen.text_encoder.to(processes.device)
    encode_own(imagen.stages, imagen.text_encoder)


def _announcements(
    plan: Plan,
    dataset: Dataset,
    directory: TrainingDirectory,
    resume: TrainingDirectory | None,
    teacher: TrainingDirectory | None,
) -> Iterator[str]:
    """Yield lines on what is trained, on what, from what and where."""
    yield f"training directory: {directory}"
    device = plan.processes.device
    precision = resolved_precision(device, plan.config.precision)
    yield f"device: {device_name(device)}, {precision}"
    by_clock = any(map(plan.follows_clock, plan.chosen))
    if by_clock and plan.follows_cores and torch.get_num_threads() > 1:
        yield "threads: fewer while other processes use the cores"
    if plan.processes.world > 1:
        yield f"{plan.processes}; the batch size is that of all ranks together"
    if resume:
        yield f"resumed from {resume}"
    if teacher:
        yield f"the teacher is {teacher}"
    if resume is None:
        yield from announce_start(plan)
    training, images = plan.training, plan.images
    endless = "a stream" if images is None and not training.endless else "drawn without end"
    valid = sum(map(len, plan.valid))
    yield f"images: {endless if images is None else images} for training, {valid} for validation"
    for i, learner in enumerate(plan.imagen.learners):
        size = " x ".join(map(str, learner.image_sizes[0]))
        millions = count_parameters(learner) / 1e6
        planned = f"; {_length(plan, i)}" if i in plan.chosen else ""
        yield f"{plan.imagen.config.title(i)}: {size}, {millions:.2f} M parameters{planned}"
    if plan.config.num_workers == "auto":
        yield f"data loader workers: {plan.workers.number} ({plan.workers.reason})"
    if not training.repeatable:
        yield PROMISE
    elif len(training.sizes) > 1:
        counts = ", ".join(f"{n} of {h} x {w}" for (h, w), n in training.sizes.items())
        yield f"images by size: {counts}"
    if plan.processes.rank == 0:
        yield from words_of(dataset, plan.imagen.text_encoder)


def _length(plan: Plan, i: int) -> str:
    """Return how long learner ``i`` is to train: its steps, or the time that it has."""
    if plan.follows_clock(i):
        return duration(plan.seconds(i))
    steps = plan.config.steps_of(i)
    return length(plan, i, steps) if steps else duration(plan.seconds(i))


def _record_session(plan: Plan, directory: TrainingDirectory) -> None:
    """Write what the run is made in."""
    processes = plan.processes
    precision = resolved_precision(processes.device, plan.config.precision)
    now = session(device_name(processes.device), precision, processes.world)
    add_session(directory.environment, now)
