"""From a data set to batches with their text encoded, from any step on."""

import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from minimagen.data.bad_samples import BadSamples
from minimagen.data.dataset import (
    BadSampleError,
    Dataset,
    IndexedDataset,
    Samples,
    StreamedDataset,
)
from minimagen.data.loading.order import Order
from minimagen.draws import derive_seed
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.sample import Sample
from minimagen.text.encoding import TextEncoder, encode_batch

ENCODED_AT_ONCE = 512  # captions, where the pictures that are read with them are small
READ_AHEAD = 64 << 20  # bytes of pictures
TRIES = 100  # bad samples in a row after which nobody looks for a good one

log = logging.getLogger(__name__)


class Collated(NamedTuple):
    """Samples that make up a batch, and what came up while they were read."""

    images: Tensor  # uint8 [b 3 h w]
    captions: list[str]
    bad: list[str] = []
    enlarged: int = 0


class Loaded(NamedTuple):
    """A good sample, if one was found, and why those tried before it were not."""

    sample: Sample | None
    bad: list[str]


@dataclass(frozen=True)
class Drawn:
    """A data set as training sees it: by (position, index), bad samples replaced.

    What a sample leaves open (caption, crop, flip) depends on the seed and on the position in the
    run, so that it differs between epochs and is the same after a resume.
    """

    dataset: IndexedDataset
    order: Order
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> Loaded:
        """Return the sample at an index, or the next good one after it."""
        position, index = key
        bad: list[str] = []
        while len(bad) < TRIES:
            rng = Random(f"{self.seed} sample {position} {len(bad)}")
            try:
                return Loaded(self.dataset.draw(index, rng), bad)
            except BadSampleError as error:
                bad.append(str(error))
            index = self.order.after(index)
        return Loaded(None, bad)


def collate(samples: Sequence[Sample]) -> Collated:
    """Stack samples: uint8 [b 3 h w] and the captions."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    captions = [sample.caption for sample in samples]
    enlarged = sum(sample.enlarged for sample in samples)
    return Collated(images.permute(0, 3, 1, 2).contiguous(), captions, [], enlarged)


def collate_loaded(loaded: Sequence[Loaded]) -> Collated:
    """Stack samples, and gather what was bad; no samples at all where one was not found.

    An exception would reach the main process as a traceback in its message.
    """
    bad = [reason for each in loaded for reason in each.bad]
    samples = [each.sample for each in loaded if each.sample is not None]
    if len(samples) < len(loaded):
        return Collated(torch.empty(0), [], bad)
    return collate(samples)._replace(bad=bad)


def training_batches(
    dataset: Dataset,
    encoder: TextEncoder,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Yield the global batches of the steps ``start ... stop - 1``, or one process's rows of them.

    Args:
        dataset: What to train on.
        encoder: Captions -> embeddings.
        batch_size: Rows of a global batch; ``world`` divides it.
        seed: Of the order and of what samples leave open.
        start: First step.
        stop: The step after the last.
        num_workers: Processes that read; none by default.
        rank: Which of ``world`` equal shares of each batch is wanted.
        world: How many there are.

    Raises:
        UserError: more than 5 % of the samples are bad.
    """
    options: dict[str, Any]
    if not dataset.repeatable:
        stream_seed = derive_seed(seed, "stream", start * batch_size)
        source: Any = Streamed(dataset, stream_seed, batch_size // world, rank, world)
        options = {"batch_size": None}  # it makes the batches itself
    else:
        order = Order(tuple(filter(None, dataset.sizes.values())), seed, dataset.endless)
        source = Drawn(dataset, order, seed)
        options = {"batch_sampler": order.batches(batch_size, start, stop, rank, world)}
    loader: DataLoader[Any] = DataLoader(
        source,
        **options,
        num_workers=num_workers,
        collate_fn=collate_loaded,
        worker_init_fn=leave_signals_to_the_run,
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # the workers' base seed must not draw from the global one
    )
    for batch in _encoded_ahead(itertools.islice(_in_one_line(loader), stop - start), encoder):
        text = encode_batch(encoder, batch.captions)
        yield Batch(batch.images, text.embeds, text.mask, batch.captions)


def _encoded_ahead(batches: Iterable[Collated], encoder: TextEncoder) -> Iterator[Collated]:
    """Read some batches ahead, and have their captions encoded together: T5 wants company.

    Once they are there, each step reads one more, so that workers are kept busy evenly.
    """
    watch = Watch()
    read: list[Collated] = []
    ready: deque[Collated] = deque()

    def encode_read() -> None:
        watch.add(read)
        encoder.encode([caption for batch in read for caption in batch.captions])
        ready.extend(read)
        read.clear()

    for batch in batches:
        read.append(batch)
        if (
            not batch.captions
            or sum(len(each.captions) for each in read) >= ENCODED_AT_ONCE
            or sum(each.images.nbytes for each in read) >= READ_AHEAD
        ):
            encode_read()
        if ready:
            yield ready.popleft()
    if read:
        encode_read()
    yield from ready


def leave_signals_to_the_run(worker: int) -> None:
    """Let a worker outlive a signal to the whole process group: the run saves, then ends it.

    A worker that ignored every SIGTERM would hang the run: multiprocessing's last word at exit, to
    workers whose loader a traceback keeps alive, is a SIGTERM, and then it waits for their end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # where it is missing, on macOS, torch's handler stays
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        run = multiprocessing.parent_process()
        assert run is not None, "only workers come here"
        threading.Thread(target=_end_when_told_by, args=(run.pid,), daemon=True).start()


def _end_when_told_by(run: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass  # somebody tells the whole group to end, and the run will see to that
    os._exit(0)


def _in_one_line(loader: Iterable[Collated]) -> Iterator[Collated]:
    """Take the traceback out of the message of a worker's UserError."""
    try:
        yield from loader
    except UserError as error:
        last = str(error).strip().splitlines()[-1]
        raise UserError(last.removeprefix("minimagen.errors.UserError: ")) from None


class Streamed(IterableDataset):
    """A stream as training sees it: endless, in batches of one size of pictures each.

    Bad samples are replaced by the next good ones.
    """

    def __init__(
        self, stream: StreamedDataset, seed: int, batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        self.stream, self.seed, self.batch_size = stream, seed, batch_size
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[Loaded]]:
        """Read the share of this worker of this process."""
        waiting: dict[tuple[int, ...], list[Loaded]] = defaultdict(list)  # by size
        for loaded in self._samples():
            if loaded.sample is None:
                yield [loaded]
                continue
            batch = waiting[loaded.sample.image.shape]
            batch.append(loaded)
            if len(batch) == self.batch_size:
                yield waiting.pop(loaded.sample.image.shape)

    def _samples(self) -> Iterator[Loaded]:
        worker = get_worker_info()
        each, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        reader, readers = self.rank * workers + each, self.world * workers
        bad: list[str] = []
        for sample in self.stream.samples(self.seed, reader, readers):
            if isinstance(sample, Sample):
                yield Loaded(sample, bad)
                bad = []
            elif len(bad) < TRIES:
                bad.append(str(sample))
            else:
                yield Loaded(None, bad)


class Watch:
    """Says what is wrong with the data as it comes up."""

    def __init__(self) -> None:
        self._bad = BadSamples()
        self._told = False

    def add(self, batches: Sequence[Collated]) -> None:
        """Look at some batches.

        Raises:
            UserError: more than 5 % of all samples so far are bad, or very many in a row.
        """
        good = sum(len(batch.captions) for batch in batches)
        bad = [reason for batch in batches for reason in batch.bad]
        self._bad.add(bad, good + len(bad))
        if not all(batch.captions for batch in batches):
            raise UserError(f"{TRIES} bad pictures in a row; the first of all: {bad[0]}")
        enlarged = sum(batch.enlarged for batch in batches)
        if enlarged and not self._told:
            height, width = batches[0].images.shape[-2:]
            log.warning(
                "%d of the first %d pictures are smaller than %d x %d and were enlarged: "
                "super-resolution learns their blur; smaller image_sizes avoid it",
                enlarged, good, height, width,
            )  # fmt: skip
            self._told = True


def good_samples(dataset: Samples, count: int) -> Iterator[Sample]:
    """Yield the first ``count`` samples that are good, or all, where there are fewer.

    Raises:
        UserError: more than 5 % of them are bad.
    """
    bad, found = BadSamples(), 0
    for index in range(len(dataset)):
        if found == count:
            return
        try:
            sample = dataset[index]
        except BadSampleError as error:
            bad.add([str(error)], 1)
            continue
        bad.add([], 1)
        found += 1
        yield sample
    if not found:
        raise UserError(f"all of the {bad.bad} pictures are bad; python -m minimagen data check")


def validation_batches(
    dataset: Samples,
    encoder: TextEncoder,
    batch_size: int,
    count: int,
) -> list[Batch]:
    """Return the first ``count`` good samples (or all, where there are fewer) as batches.

    Each is of pictures of one size.
    """
    batches: list[Batch] = []
    waiting: dict[tuple[int, ...], list[Sample]] = defaultdict(list)  # by size

    def add(rows: list[Sample]) -> None:
        collated = collate(rows)
        text = encode_batch(encoder, collated.captions)
        batches.append(Batch(collated.images, text.embeds, text.mask, collated.captions))

    for sample in good_samples(dataset, count):
        rows = waiting[sample.image.shape]
        rows.append(sample)
        if len(rows) == batch_size:
            add(waiting.pop(sample.image.shape))
    for rows in waiting.values():
        add(rows)
    return batches
