"""From a data set to batches with their captions encoded, from any step on."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from minimagen.advice import enlarged
from minimagen.data.bad_samples import BadSamples
from minimagen.data.dataset import BadSampleError, Dataset, Samples
from minimagen.data.loading.ahead import read_ahead
from minimagen.data.loading.order import Order
from minimagen.data.loading.reading import (
    TRIES,
    IndexedReader,
    RawBatch,
    Reading,
    StreamReader,
    batched_by_size,
    collate,
    read_in_workers,
)
from minimagen.draws import derive_seed
from minimagen.errors import UserError
from minimagen.images import Batch, LearnerSizes
from minimagen.learner import CaptionReader
from minimagen.sample import Sample
from minimagen.text.encoding import pad_and_stack

ENCODED_AT_ONCE = 512  # captions, where the images that are read with them are small
READ_AHEAD = 64 << 20  # bytes of images

Encodings = dict[str, Tensor]
"""Of captions, bfloat16 [n, d] each."""

log = logging.getLogger(__name__)


def training_batches(
    dataset: Dataset,
    encoder: CaptionReader,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
    *,
    sizes: LearnerSizes | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yield the global batches of the steps ``start ... stop - 1``, or one rank's rows of them.

    Args:
        dataset: what to train on.
        encoder: gets the captions of several batches at a time.
        batch_size: rows of a global batch; ``world`` divides it.
        seed: of the order and of what samples leave open.
        start: the first step.
        stop: the step after the last.
        num_workers: processes that read.
        rank: which of ``world`` equal shares of each batch is wanted.
        world: the number of shares.
        sizes: of the images that the learner takes; None leaves them as they are in the data.
        pin_memory: for a GPU, a thread puts batches into page-locked memory ahead of time.

    Raises:
        UserError: more than 5 % of the samples are bad, or a stream ends.
    """
    options: dict[str, Any]
    if not dataset.repeatable:
        stream_seed = derive_seed(seed, "stream", start * batch_size)
        source: Any = StreamReader(dataset, stream_seed, batch_size // world, rank, world)
        options = {"batch_size": None}  # it makes the batches itself
    else:
        order = Order(tuple(filter(None, dataset.sizes.values())), seed, dataset.endless)
        source = IndexedReader(dataset, order, seed)
        options = {"batch_sampler": order.batches(batch_size, start, stop, rank, world)}
    raw = read_in_workers(source, num_workers, collate_fn=partial(collate, sizes=sizes), **options)
    batches = _encoded(islice(raw, stop - start), encoder)
    if pin_memory:
        batches = read_ahead(batch.pin_memory() for batch in batches)
    step = start
    for batch in batches:
        yield batch
        step += 1
    if step < stop:
        raise UserError(
            f"the data ended after {step - start} batches: give fewer `num_workers`, or more shards"
        )


def _encoded(batches: Iterable[RawBatch], encoder: CaptionReader) -> Iterator[Batch]:
    """Read some batches ahead and encode their captions together, which is faster than one by one.

    Once they are there, each step reads one more, so that workers are kept busy evenly.
    """
    watch = Watch()
    read: list[RawBatch] = []
    ready: deque[tuple[RawBatch, Encodings]] = deque()

    def encode_what_is_read() -> None:
        watch.add(read)
        encodings = encode_together(read, encoder)
        ready.extend((each, encodings) for each in read)
        read.clear()

    for batch in batches:
        read.append(batch)
        if (
            not batch
            or sum(map(len, read)) >= ENCODED_AT_ONCE
            or sum(each.nbytes for each in read) >= READ_AHEAD
        ):
            encode_what_is_read()
        if ready:
            yield _padded(*ready.popleft())
    encode_what_is_read()
    yield from (_padded(*each) for each in ready)


def encode_together(batches: Sequence[RawBatch], encoder: CaptionReader) -> Encodings:
    """Encode each distinct caption of some batches once."""
    captions = list(dict.fromkeys(caption for batch in batches for caption in batch.captions))
    if not captions:
        return {}
    encodings = encoder.encode(captions)
    # One block: thousands of small tensors would leave the memory full of holes.
    block = torch.cat(encodings).to(torch.bfloat16)
    split = block.split([len(encoding) for encoding in encodings])
    return dict(zip(captions, split, strict=True))


def encoded(raw: RawBatch, encoder: CaptionReader) -> Batch:
    """Return a batch with its captions encoded."""
    return _padded(raw, encode_together([raw], encoder))


def _padded(raw: RawBatch, encodings: Encodings) -> Batch:
    text = pad_and_stack([encodings[caption] for caption in raw.captions])
    return Batch(raw.images, text.embeds, text.mask, raw.captions, raw.low_res)


class Watch:
    """Reports what is wrong with the data as it is read."""

    def __init__(self) -> None:
        self._bad = BadSamples()
        self._warned = False

    def add(self, batches: Sequence[RawBatch]) -> None:
        """Look at some batches.

        Raises:
            UserError: more than 5 % of all samples so far are bad, or very many in a row.
        """
        good = sum(map(len, batches))
        bad = [reason for batch in batches for reason in batch.bad]
        self._bad.add(bad, good + len(bad))
        if not all(batches):
            raise UserError(f"{TRIES} bad images in a row; the first of all: {bad[0]}")
        warning = enlarged(sum(batch.enlarged for batch in batches), good)
        if warning and not self._warned:
            log.warning(warning)
            self._warned = True


def good_samples(dataset: Samples, count: int) -> Iterator[Sample]:
    """Yield the first ``count`` samples that are good, or all, where there are fewer.

    Raises:
        UserError: more than 5 % of them are bad, or all.
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
    if not found and bad.named:
        raise UserError(f"all {bad.bad} images are bad; the first: {bad.named[0]}")
    if not found:
        raise UserError("the validation part has no images: fill it, or take it out of the data")


def validation_batches(
    dataset: Samples,
    encoder: CaptionReader,
    batch_size: int,
    count: int,
    sizes: LearnerSizes | None = None,
) -> list[Batch]:
    """Return what ``read_batches`` does, encoded."""
    return [encoded(raw, encoder) for raw in read_batches(dataset, batch_size, count, sizes)]


def read_batches(
    dataset: Samples, batch_size: int, count: int, sizes: LearnerSizes | None = None
) -> list[RawBatch]:
    """Return the first ``count`` good samples (or all, where there are fewer) as batches.

    Each is of images of one size, in the data; see ``training_batches`` for ``sizes``.
    """
    readings = map(Reading, good_samples(dataset, count))
    return [collate(batch, sizes) for batch in batched_by_size(readings, batch_size, False)]
