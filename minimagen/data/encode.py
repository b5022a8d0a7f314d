"""Every caption of a data set through the text encoder, once, onto the disk."""

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minimagen.data.dataset import Dataset, count_of
from minimagen.errors import UserError
from minimagen.progress import tqdm
from minimagen.storage.tensor_store import TensorStore, store_folder
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.encoding import TextEncoder

WINDOW = 512  # captions encoded together, and what an interruption can cost


@dataclass
class EncodingReport:
    """What was done, and what the folder holds now."""

    captions: int = 0
    encoded: int = 0
    without: int = 0  # images without a usable caption
    seconds: float = 0.0
    interrupted: bool = False
    in_folder: int = 0
    bytes: int = 0
    folder: Path = Path()
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the report as text."""
        rate = self.captions / max(self.seconds, 1e-9)
        lines = [
            f"{self.captions} captions in {self.seconds:.1f} s, {rate:.0f} captions/s",
            f"  encoded now: {self.encoded} (the others were repeated, or there already)",
            f"  in the folder: {self.in_folder} distinct captions, "
            f"{self.bytes / max(self.in_folder, 1):.0f} bytes per caption: {self.folder}",
        ]
        if self.without:
            lines.append(f"  {self.without} images have no usable caption (see data check)")
        lines += [f"  {note}" for note in self.notes]
        if self.interrupted:
            lines.append("interrupted: what is encoded stays, the same command goes on")
        return "\n".join(lines)


def encode_captions(dataset: Dataset, encoder: TextEncoder) -> EncodingReport:
    """Encode those captions of a data set that are not on the disk yet; Ctrl-C ends it early.

    Raises:
        UserError: the cache folder cannot be written, the encoder or the data cannot be read.
    """
    store = TensorStore(store_folder(encoder.name, encoder.fingerprint))
    cache, report = EmbeddingCache(encoder, store), EncodingReport(folder=store.path.parent)
    encoder.encode(["weights are loaded before the clock starts"])
    started = time.perf_counter()
    captions = _counted(dataset, report)
    try:
        while window := list(itertools.islice(captions, WINDOW)):
            cache.fill(window)
            report.captions += len(window)
            if store.refused:
                raise UserError(store.refused)
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        captions.close()
    report.seconds = time.perf_counter() - started
    report.encoded, report.notes = cache.encoded, encoder.notes()
    report.in_folder, report.bytes = len(store), store.size
    return report


def walk_captions(dataset: Dataset) -> Iterator[tuple[str, ...]]:
    """Yield every image's captions, those of the data's own validation set last; decode none.

    A row without a usable caption is an empty tuple.
    """
    yield from dataset.captions()
    if dataset.validation is not None:
        yield from dataset.validation.captions()


def _counted(dataset: Dataset, report: EncodingReport) -> Generator[str, None, None]:
    """Yield single captions under a progress bar that counts images."""
    counts = [count_of(part) for part in (dataset, dataset.validation) if part is not None]
    total = None if None in counts else sum(filter(None, counts))
    for captions in tqdm(walk_captions(dataset), total=total, unit=" images", mininterval=1.0):
        report.without += not captions
        yield from captions
