"""What a network will see of a data set: some of its images, cropped and resized, on one sheet."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from PIL import Image

from minimagen.data.dataset import BadSampleError, Dataset
from minimagen.errors import UserError
from minimagen.sample import Sample
from minimagen.storage.image_files import contact_sheet
from minimagen.storage.metadata import save_png

IMAGES = 64  # on a sheet
TRIED = 200  # draws of a stream, one after the other, that are bad or known: there are no more


def write_sheet(dataset: Dataset, path: Path, count: int = IMAGES) -> int:
    """Write a PNG file with up to ``count`` images of one size and their captions.

    Of data with an index they are evenly spaced, of a stream the first ones that it draws, each
    once; bad ones are left out.

    Returns:
        The number of images.

    Raises:
        UserError: no image can be read, or the file cannot be written.
    """
    samples = list(islice(_samples(dataset, count), count))
    if not samples:
        raise UserError("no image can be shown: all that were tried are bad")
    captions = [sample.caption for sample in samples]
    save_png(path, contact_sheet(captions, [[Image.fromarray(s.image) for s in samples]]))
    return len(samples)


def _samples(dataset: Dataset, count: int) -> Iterator[Sample]:
    """Yield the samples to show."""
    random = Random(0)
    if not dataset.repeatable:
        names, in_vain = set[str](), 0
        for each in dataset.samples(0, 0, 1):  # it draws without end
            if isinstance(each, BadSampleError) or each.name in names:
                in_vain += 1
                if in_vain == TRIED:
                    return
                continue
            names.add(each.name)
            in_vain = 0
            yield each
        return
    for place in range(count):
        index = place * len(dataset) // count
        if place and index == (place - 1) * len(dataset) // count:
            continue  # there are fewer images than places
        try:
            yield dataset.draw(index, random)
        except BadSampleError:
            continue
