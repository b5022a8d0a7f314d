"""Samples in the order of training, stacked: what a worker does."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from minimagen.data.dataset import BadSampleError, IndexedDataset, StreamedDataset
from minimagen.data.loading.order import Order
from minimagen.draws import rng
from minimagen.images import LearnerSizes
from minimagen.sample import Sample

TRIES = 100  # bad samples in a row after which no good one is looked for


class Reading(NamedTuple):
    """A good sample, if one was found, and why those tried before it were not good."""

    sample: Sample | None
    bad: list[str]


class RawBatch(NamedTuple):
    """Samples that make up a batch, not yet encoded, and what came up while they were read."""

    images: Tensor  # [b 3 h w], see Batch
    low_res: Tensor | None
    captions: list[str]
    bad: list[str] = []
    enlarged: int = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of all images."""
        return self.images.nbytes + (0 if self.low_res is None else self.low_res.nbytes)


@dataclass(frozen=True)
class Collate:
    """Stacks samples of one size into a batch at the learner's sizes.

    Args:
        sizes: None leaves the images as they are.
    """

    sizes: LearnerSizes | None = None

    def __call__(self, readings: Sequence[Reading]) -> RawBatch:
        """Stack the samples and gather what was bad; no sample at all where one was not found.

        An exception would reach the main process as a traceback in its message.
        """
        bad = [reason for reading in readings for reason in reading.bad]
        samples = [reading.sample for reading in readings if reading.sample is not None]
        if len(samples) < len(readings):
            return RawBatch(torch.empty(0), None, [], bad)
        return self.samples(samples)._replace(bad=bad)

    def samples(self, samples: Sequence[Sample]) -> RawBatch:
        """Stack good samples."""
        images = stack_images(samples)
        captions = [sample.caption for sample in samples]
        enlarged = sum(sample.enlarged for sample in samples)
        own, low_res = self.sizes.resize(images) if self.sizes else (images, None)
        return RawBatch(own, low_res, captions, [], enlarged)


def stack_images(samples: Sequence[Sample]) -> Tensor:
    """Return the images of samples of one size, uint8 [b 3 h w]."""
    stacked = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return rearrange(stacked, "b h w c -> b c h w").contiguous()


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


class StreamReader(IterableDataset[list[Reading]]):
    """A stream as training reads it: endless, in batches of one size of images each.

    Bad samples are replaced by the next good ones.
    """

    def __init__(
        self, stream: StreamedDataset, seed: int, batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        self.stream, self.seed, self.batch_size = stream, seed, batch_size
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[Reading]]:
        """Read the share of this worker of this process."""
        waiting: dict[tuple[int, ...], list[Reading]] = defaultdict(list)  # by size
        for reading in self._readings():
            if reading.sample is None:
                yield [reading]
                continue
            batch = waiting[reading.sample.image.shape]
            batch.append(reading)
            if len(batch) == self.batch_size:
                yield waiting.pop(reading.sample.image.shape)

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
