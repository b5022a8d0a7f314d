"""Which samples make up which step: a function of (seed, step), so a run can start anywhere."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from minimagen.batch import Batch
from minimagen.data.sample import CaptionedDataset, Sample
from minimagen.draws import generator
from minimagen.text.encoding import TextEncoding

ENCODED_AT_ONCE = 512  # captions; T5 wants company, a training batch may be small

Collated = tuple[Tensor, list[str]]  # uint8 [b 3 h w], captions


@dataclass(frozen=True)
class Order:
    """The sample at every position of an endless run: each epoch a fresh permutation.

    Data without end (``endless``) needs no permutation: position p is sample p.
    """

    length: int
    seed: int
    endless: bool = False

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[list[int]]:
        """Yield the sample indices of the steps ``start ... stop - 1``."""
        epoch, order = -1, torch.empty(0)
        for step in range(start, stop):
            indices = []
            for position in range(step * batch_size, (step + 1) * batch_size):
                if not self.endless and position // self.length != epoch:
                    epoch = position // self.length
                    random = generator(self.seed, "order", epoch)
                    order = torch.randperm(self.length, generator=random)
                indices.append(position if self.endless else int(order[position % self.length]))
            yield indices


def collate(samples: Sequence[Sample]) -> Collated:
    """Stack samples: uint8 [b 3 h w] and the captions."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return images.permute(0, 3, 1, 2).contiguous(), [sample.caption for sample in samples]


def training_batches(
    dataset: CaptionedDataset,
    encode: Callable[[Sequence[str]], TextEncoding],
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Yield the global batches of the steps ``start ... stop - 1``."""
    order = Order(len(dataset), seed, getattr(dataset, "endless", False))
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=order.batches(batch_size, start, stop),
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator(),  # the workers' base seed must not draw from the global one
    )
    batches = iter(loader)
    while window := list(itertools.islice(batches, max(1, ENCODED_AT_ONCE // batch_size))):
        encode([caption for _, captions in window for caption in captions])
        for images, captions in window:
            text = encode(captions)  # remembered from the line above
            yield Batch(images, text.embeds, text.mask)


def validation_batches(
    dataset: CaptionedDataset,
    encode: Callable[[Sequence[str]], TextEncoding],
    batch_size: int,
    count: int,
) -> list[Batch]:
    """Return the first ``count`` samples (or all, where there are fewer) as batches."""
    batches = []
    indices = iter(range(min(count, len(dataset))))
    while rows := list(itertools.islice(indices, batch_size)):
        images, captions = collate([dataset[i] for i in rows])
        text = encode(captions)
        batches.append(Batch(images, text.embeds, text.mask))
    return batches
