"""What a run trains, on what, and for how long."""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from minimagen.config import DataConfig, ImagenConfig, TrainingConfig
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.config.training import UNKNOWN, Revision
from minimagen.cores import CoreWatch, chosen_threads, usable_cores
from minimagen.data.dataset import Dataset, Samples, count_of
from minimagen.data.loading.batches import encoded, good_samples, read_batches, training_batches
from minimagen.data.loading.reading import RawBatch
from minimagen.data.loading.workers import Workers, choose_workers
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.images import Batch, LearnerSizes
from minimagen.learner import CaptionReader, Learner
from minimagen.storage.directory import Parameters
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.training.clock import StageClock
from minimagen.training.processes.alone import Processes
from minimagen.training.trainer import Trainer

VALIDATED_AT_ONCE = 32
UNTIMED_STEPS = 2  # of each size: the first ones also allocate, choose kernels and start workers
COMPILERS = ("g++", "clang++", "c++", "cl")  # torch.compile uses one of them
ON_SHEET = 16  # captions of the validation set on sample sheets, where none are given


@dataclass(frozen=True)
class Plan:
    """What a run trains.

    Attributes:
        imagen: The cascade.
        config: With one entry of ``learners`` for each learner.
        data: What the images are, as ``data.json`` has it.
        chosen: The places of the learners to train.
        training: The images to train on.
        valid: The images to validate on, of the data's size.
        captions: Those of the sample sheets.
        processes: Those that train together.
    """

    imagen: Imagen
    config: TrainingConfig
    data: DataConfig
    chosen: Sequence[int]
    training: Dataset
    valid: Sequence[RawBatch]
    captions: Sequence[str]
    processes: Processes = field(default_factory=Processes)

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the steps of every learner; UNKNOWN where the clock decides."""
        learners = range(len(self.imagen.learners))
        return tuple(self.config.steps_of(i) or UNKNOWN for i in learners)

    def seconds(self, i: int) -> float:
        """Return the time of learner ``i``; 0 where there are steps."""
        return 60 * self.config.divided(self.chosen)[i] if self.config.minutes else 0.0

    def follows_clock(self, i: int) -> bool:
        """Return whether the clock decides how long learner ``i`` goes on."""
        return self.config.minutes is not None and not any(r.ended for r in self.revisions(i)[-1:])

    def revisions(self, i: int) -> tuple[Revision, ...]:
        """Return those of the plan of learner ``i`` so far."""
        return self.config.revisions[i] if self.config.revisions else ()

    @property
    def images(self) -> int | None:
        """Return the images of an epoch; None where there are no epochs."""
        return None if self.training.endless else count_of(self.training)

    @property
    def parameters(self) -> Parameters:
        """Return the full configuration."""
        return Parameters(self.imagen.config, self.config, self.data)

    def lasting(self, steps: tuple[int, ...]) -> "Plan":
        """Return the plan with so many steps for each learner."""
        return replace(self, config=self.config.replace(steps=steps, epochs=None, minutes=None))

    def trainer(self, i: int, learner: Learner, steps: int) -> Trainer:
        """Return what trains ``learner`` as number ``i``, for so many steps."""
        config = self.config
        options = config.seed, config.accum_iter, config.precision, self.processes
        return Trainer(
            learner, self.imagen.config.learner_keys[i], config.learners[i], steps, *options
        )

    def clock(self, available: float, begun: float) -> StageClock:
        """Return the clock of a learner that has so many seconds and began then."""
        untimed = UNTIMED_STEPS * len(self.training.sizes)
        cores = CoreWatch(torch.get_num_threads()) if self.follows_cores else None
        return StageClock(available, begun, self.config, untimed, cores)

    @property
    def follows_cores(self) -> bool:
        """Return whether a run by the clock takes a thread for each free core."""
        alone = self.processes.world == 1 and self.processes.device.type == "cpu"
        fixed = chosen_threads() or self.config.compile  # code is compiled for a number of threads
        return alone and not fixed

    @property
    def workers(self) -> Workers:
        """Return how many processes read the training data of each rank, and why."""
        given = self.config.num_workers
        if given != "auto":
            return Workers(given, "as asked")
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        device = self.processes.device.type
        return choose_workers(self.training, device, usable_cores(), ranks_here)

    def batches(self, i: int, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of the steps ``start ... stop - 1`` of learner ``i``, at its own size.

        Each has the rows of this rank; for a GPU they are in pinned memory. What a learner makes of
        images to keep it is kept where they come again: not where they are drawn or cropped anew.
        """
        pinned = self.processes.device.type == "cuda"
        ranks = (self.workers.number, self.processes.rank, self.processes.world)
        batches = self._read(i, start, stop, *ranks, pin_memory=pinned)
        once = self.training.endless or self.data.crop == "random"
        return batches if once else self.imagen.learners[i].prepared(batches)

    def first_batches(self, i: int) -> Iterator[Batch]:
        """Yield whole batches of learner ``i`` from its first step on, the same on all ranks."""
        return self._read(i, 0, max(1, self.steps[i]))

    def _read(self, i: int, start: int, stop: int, *ranks: int, **options: Any) -> Iterator[Batch]:
        size, seed = self.config.batch_size_of(i), self.config.seed
        options["sizes"] = LearnerSizes(
            self.imagen.config.data_size, *self.imagen.learners[i].image_sizes
        )
        return training_batches(
            self.training, self._reader(i), size, seed, start, stop, *ranks, **options
        )

    def _reader(self, i: int) -> CaptionReader:
        return self.imagen.learners[i].reads or self.imagen.text_encoder

    def validation(self, i: int) -> list[Batch]:
        """Return the images to validate learner ``i`` on, at its own size."""
        full, sizes = self.imagen.config.data_size, self.imagen.learners[i].image_sizes
        return [encoded(batch, self._reader(i)).at(sizes, full) for batch in self.valid]


def make_plan(
    imagen: Imagen,
    dataset: Dataset,
    config: TrainingConfig,
    data: DataConfig,
    chosen: Sequence[int],
    processes: Processes,
) -> Plan:
    """Return the plan of a run on ``dataset``, which is divided as ``data`` has it.

    Puts a cache before a frozen text encoder, so that it encodes each caption once.

    Raises:
        UserError: The images are not of the last stage's size, or too few or too bad.
    """
    data = data.replace(**dataset.description)
    if not imagen.config.first_stage:  # otherwise the text encoder may not be trained yet
        cache_captions(imagen, dataset.endless)
    training, validation = dataset.split(data.train_valid_frac, data.seed, data.valid_num)
    _check_sizes(dataset, validation, imagen.config, data.aspect_buckets)
    valid = read_batches(validation, VALIDATED_AT_ONCE, data.valid_num)
    captions = config.sample_captions or [s.caption for s in good_samples(validation, ON_SHEET)]
    if data.max_samples is not None:
        training = training.at_most(data.max_samples, data.seed)
    return Plan(imagen, config, data, chosen, training, valid, captions, processes)


def cache_captions(imagen: Imagen, endless: bool) -> None:
    """Put a cache before the text encoder, whose weights do not change any more."""
    encoder = imagen.text_encoder
    if isinstance(encoder, EmbeddingCache):
        if not encoder.is_stale:
            return
        encoder = encoder.encoder
    imagen.text_encoder = EmbeddingCache.on_disk(encoder, endless)


def _check_sizes(
    dataset: Dataset, validation: Samples, config: ImagenConfig, several: bool
) -> None:
    """Raise a UserError unless the last learner takes such images, ``several`` sizes or one."""
    given = next(good_samples(validation, 1)).image.shape[:2]
    last = config.data_size
    valid = aspect_buckets(config) if several else (last,)
    for size in (given, *dataset.sizes):
        if size not in valid:
            raise UserError(
                f"the images are {size[0]} x {size[1]}, the cascade takes {last}; load the "
                "data at that size, or with buckets=aspect_buckets(imagen.config)"
            )


def check_settings(
    config: TrainingConfig,
    learners: Sequence[Learner],
    chosen: Sequence[int],
    world: int = 1,
    sharded: bool = False,
) -> None:
    """Raise a UserError unless the settings fit the learners, the processes and what is installed.

    ``config`` has one entry for each learner; ``world`` processes divide each batch.
    """
    parts = world * config.accum_iter
    for i in chosen:
        size = config.batch_size_of(i)
        divided = f"{world} ranks x `accum_iter` {config.accum_iter}"
        if size % parts:
            raise UserError(
                f"`batch_size` {size} of {learners[i].name}, all ranks together, is not "
                f"divisible by {divided}; use a multiple of {parts}"
            )
        if not learners[i].per_example and (config.accum_iter > 1 or sharded):
            raise UserError(
                f"the loss of {learners[i].name} compares the examples of a whole batch, which "
                f"`accum_iter` {config.accum_iter} would cut into pieces; give `accum_iter` 1, and "
                "no `fsdp`"
            )
    if sharded and any(config.learners[i].optimizer == "muon" for i in chosen):
        raise UserError(
            "Muon makes whole matrices orthogonal, and FSDP divides them: give `optimizer` adamw"
        )
    if config.compile and not any(map(shutil.which, COMPILERS)):
        raise UserError(
            f"`compile` needs a C++ compiler on the PATH ({', '.join(COMPILERS)}): install one, or "
            "leave it out"
        )
    if config.tracker != "none" and importlib.util.find_spec(config.tracker) is None:
        raise UserError(
            f"`tracker` {config.tracker} needs a package that is not installed: "
            f"pip install {config.tracker}"
        )
