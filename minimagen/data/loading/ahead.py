"""Batches that are ready before they are asked for: a thread makes them while a GPU computes."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
READY = 3  # batches


def read_ahead(items: Iterator[T], count: int = READY) -> Iterator[T]:
    """Yield what ``items`` does, of which a thread takes the next ``count`` ahead.

    The first is taken here: processes that read begin in the thread that ends them.

    Raises:
        Exception: whatever ``items`` raises, in its place.
    """
    first = next(items, None)
    if first is None:
        return
    thread = ThreadPoolExecutor(1, "batches")
    try:
        if torch.cuda.is_available():  # each thread has a device of its own
            thread.submit(torch.cuda.set_device, torch.cuda.current_device())
        coming = deque(thread.submit(next, items, None) for _ in range(count))
        yield first
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
