"""Samples in the order of training, stacked: what a worker does, and the processes that do it.

How they start, what signals do to them, and how their errors arrive.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from minimagen.data.dataset import BadSampleError, IndexedDataset, StreamedDataset
from minimagen.data.loading.order import Order
from minimagen.draws import rng
from minimagen.errors import UserError
from minimagen.images import LearnerSizes
from minimagen.sample import Sample

TRIES = 100  # bad samples in a row after which no good one is looked for


class Reading(NamedTuple):
    """A good sample, if one was found, and why those tried before it were not good."""

    sample: Sample | None
    bad: Sequence[str] = ()


@dataclass(frozen=True)
class RawBatch:
    """Samples that make up a batch, not yet encoded, and what came up while they were read."""

    images: Tensor  # [b 3 h w], see Batch
    low_res: Tensor | None
    captions: Sequence[str]
    bad: Sequence[str]
    enlarged: int = 0

    def __len__(self) -> int:
        """Return the number of samples; 0 where none was found."""
        return len(self.captions)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all images."""
        return self.images.nbytes + (0 if self.low_res is None else self.low_res.nbytes)


def collate(readings: Sequence[Reading], sizes: LearnerSizes | None = None) -> RawBatch:
    """Stack samples at a learner's sizes (None: as they are), or none, where one was not found.

    An exception would reach the main process as a traceback in its message.
    """
    bad = [reason for reading in readings for reason in reading.bad]
    samples = [reading.sample for reading in readings if reading.sample is not None]
    if len(samples) < len(readings):
        return RawBatch(torch.empty(0), None, (), bad)
    images = stack_images(samples)
    own, low_res = sizes.resize(images) if sizes else (images, None)
    captions = [sample.caption for sample in samples]
    return RawBatch(own, low_res, captions, bad, sum(sample.enlarged for sample in samples))


def stack_images(samples: Sequence[Sample]) -> Tensor:
    """Return the images of samples of one size, uint8 [b 3 h w]."""
    stacked = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return rearrange(stacked, "b h w c -> b c h w").contiguous()


def batched_by_size(
    readings: Iterable[Reading], batch_size: int, drop_last: bool
) -> Iterator[list[Reading]]:
    """Yield readings in batches of one size of images; a failed one comes at once and alone."""
    waiting: dict[tuple[int, ...], list[Reading]] = defaultdict(list)
    for reading in readings:
        if reading.sample is None:
            yield [reading]
            continue
        shape = reading.sample.image.shape
        waiting[shape].append(reading)
        if len(waiting[shape]) == batch_size:
            yield waiting.pop(shape)
    if not drop_last:
        yield from waiting.values()


@dataclass(frozen=True)
class IndexedReader:
    """A data set as training reads it: by (position, index), bad samples replaced.

    What a sample leaves open (caption, crop, flip) depends on the seed and on the position in the
    run, so that it differs between epochs and is the same after a resume.
    """

    dataset: IndexedDataset
    order: Order
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> Reading:
        """Return the sample at an index, or the next good one of its size."""
        position, index = key
        bad: list[str] = []
        while len(bad) < TRIES:
            try:
                draws = rng(self.seed, "sample", position, len(bad))
                return Reading(self.dataset.draw(index, draws), bad)
            except BadSampleError as error:
                bad.append(str(error))
            index = self.order.after(index)
        return Reading(None, bad)


@dataclass(eq=False)
class StreamReader(IterableDataset[list[Reading]]):
    """A stream as one rank's training reads it, in batches; bad samples replaced by the next."""

    stream: StreamedDataset
    seed: int
    batch_size: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[Reading]]:
        return batched_by_size(self._readings(), self.batch_size, drop_last=True)

    def _readings(self) -> Iterator[Reading]:
        worker = get_worker_info()
        each, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        reader, readers = self.rank * workers + each, self.world * workers
        bad: list[str] = []
        for sample in self.stream.samples(self.seed, reader, readers):
            if isinstance(sample, Sample):
                yield Reading(sample, bad)
                bad = []
            elif len(bad) < TRIES:
                bad.append(str(sample))
            else:
                yield Reading(None, bad)


def read_in_workers(source: Any, num_workers: int, **options: Any) -> Iterator[Any]:
    """Yield what torch's ``DataLoader(source, **options)`` does.

    Raises:
        UserError: as a worker raised it, without the traceback that torch puts into the message.
    """
    try:
        yield from DataLoader(
            source,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_parent,
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
            generator=torch.Generator(),  # the workers' base seed is not drawn from the global one
            **options,
        )
    except UserError as error:
        last = str(error).strip().splitlines()[-1]
        raise UserError(last.removeprefix("minimagen.errors.UserError: ")) from None


def leave_signals_to_parent(worker: int) -> None:
    """Let a worker outlive a signal to the whole process group: its parent saves, then ends it.

    A worker that ignored every SIGTERM would hang its parent: multiprocessing sends SIGTERM at exit
    to workers whose loader is still referenced (by a traceback, say), and waits for their end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # where it is missing, on macOS, torch's handler stays
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = multiprocessing.parent_process()
        assert parent is not None, "only workers come here"
        threading.Thread(target=_end_when_sent_by, args=(parent.pid,), daemon=True).start()


def _end_when_sent_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass  # sent to the whole group: the parent gets it too and decides
    os._exit(0)
