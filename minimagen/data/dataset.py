"""What every data set hands over: one captioned picture."""

from random import Random
from typing import Protocol

from minimagen.sample import Sample


class BadSampleError(Exception):
    """A sample that cannot be used; the message names it and says why."""


class CaptionedDataset(Protocol):
    """Captioned pictures by index; the same index always gives the same sample.

    A data set that leaves a choice (several captions, where to crop) may also have
    ``draw(index, rng)``, which makes the choice with ``rng``: training uses it.
    """

    def __len__(self) -> int:
        """Return the number of samples in one epoch."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Return one sample.

        Raises:
            BadSampleError: it cannot be used; training takes another one and counts it.
        """
        ...


def draw(dataset: CaptionedDataset, index: int, rng: Random) -> Sample:
    """Return a sample as training sees it, with what the data leaves open drawn with ``rng``.

    Raises:
        BadSampleError: it cannot be used.
    """
    own = getattr(dataset, "draw", None)
    return dataset[index] if own is None else own(index, rng)
