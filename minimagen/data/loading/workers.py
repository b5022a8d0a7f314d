"""How many processes read, and why so many."""

import sys
from typing import NamedTuple

from minimagen.config.data import CENTER
from minimagen.data.dataset import Dataset, count_of
from minimagen.data.images.dataset import CACHE_BYTES

MOST_WORKERS = 8  # of each rank; more of them wait for the disk or for the rank


class Workers(NamedTuple):
    """How many processes read for each rank, and why so many."""

    number: int
    reason: str


def choose_workers(dataset: Dataset, device_type: str, cores: int, ranks: int) -> Workers:
    """Return the workers that suit ``dataset`` and the machine.

    Args:
        dataset: What is read.
        device_type: Where the networks train. Workers would take the cores from a CPU's.
        cores: Of this machine, those that the ranks on it may use together.
        ranks: Processes that train on this machine.
    """
    if device_type != "cuda":
        return Workers(0, f"the network trains on {device_type}")
    if sys.platform != "linux":
        return Workers(0, "they start slowly on this system")
    if not dataset.endless and (count := count_of(dataset)) is not None:
        largest = max(height * width for height, width in dataset.sizes)
        kept = dataset.description.get("crop") == CENTER  # an own class keeps what it likes
        if kept and 3 * count * largest <= CACHE_BYTES:
            return Workers(0, f"{count} decoded images stay in memory")
    number = max(0, min(MOST_WORKERS, cores // ranks - 1))
    return Workers(number, f"{cores} cores for {ranks} rank{'s' * (ranks > 1)}")
