"""Is this data fit to train on? Counts, sizes, duplicates, captions, and what is unreadable."""

import hashlib
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from minimagen.data.dataset import BadSampleError, Dataset, Row
from minimagen.data.images.decoding import load_rgb, open_image
from minimagen.data.words import count_words, report_words
from minimagen.storage.image_formats import DAMAGE
from minimagen.text.encoding import TextEncoder, TokenReport

SHOWN = 20  # problems named in each part; the rest is counted
INSPECTED_AT_ONCE = 1000  # captions


@dataclass
class Report:
    """What was found in one part (training, validation) of the data."""

    name: str
    images: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    sides: list[tuple[int, int]] = field(default_factory=list)  # (width, height)
    duplicates: int = 0
    small: int = 0
    captions: list[TokenReport] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def text(self, side: int | None, max_tokens: int) -> str:
        """Return the report as text."""
        lines = [f"{self.name}: {self.images} images, {len(self.captions)} captions"]
        if self.sides:
            smallest, largest = (choose(self.sides, key=math.prod) for choose in (min, max))
            shorter = statistics.median(map(min, self.sides))
            lines.append(
                f"  sizes: {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]}, median "
                f"of the shorter sides {shorter:g}"
            )
            kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.most_common())
            lines.append(f"  kinds: {kinds}")
        if side is not None:
            lines.append(f"  smaller than {side} px: {self.small}")
        lines.append(f"  duplicates (the same file again): {self.duplicates}")
        if tokens := [caption.tokens for caption in self.captions]:
            cut = sum(n > max_tokens for n in tokens)
            lines.append(
                f"  tokens per caption: {min(tokens)} to {max(tokens)}, median "
                f"{statistics.median(tokens):g}; longer than {max_tokens}, so cut: {cut}"
            )
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  PROBLEM {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"  ... and {len(self.problems) - SHOWN} more problems")
        return "\n".join(lines)


def check(dataset: Dataset, encoder: TextEncoder, side: int | None) -> list[Report]:
    """Read every image and caption once; smaller images than ``side`` pixels are problems.

    Raises:
        UserError: the data is not made of files.
    """
    parts = {"training": dataset.rows()}
    if dataset.validation is not None:
        parts["validation"] = dataset.validation.rows()
    seen: set[bytes] = set()  # of all parts: a validation image that is trained on is a mistake
    reports = []
    for name, rows in parts.items():
        report = Report(name)
        captions = _check_rows(report, rows, side, seen)
        while some := list(itertools.islice(captions, INSPECTED_AT_ONCE)):
            report.captions += encoder.inspect(some)
            report.words += count_words(some)
        report.notes += report_words(encoder, report.words).lines()
        if not report.images:
            report.problems.append("no images")
        if unknown := sum(caption.unknown for caption in report.captions):
            report.problems.append(
                f"{unknown} of {len(report.captions)} captions are unknown to the encoder "
                f"{encoder.name}: no letter is in its vocabulary, so all are encoded alike; "
                "t5_mini knows every letter (it falls back to bytes)"
            )
        reports.append(report)
    return reports


def _check_rows(
    report: Report, rows: Iterable[Row | BadSampleError], side: int | None, seen: set[bytes]
) -> Iterator[str]:
    """Check the images and yield the captions."""
    for row in rows:
        report.images += 1
        if isinstance(row, BadSampleError):
            report.problems.append(str(row))
            continue
        _check_image(report, row, side, seen)
        if not row.captions:
            report.problems.append(f"{row.name}: no caption")
        yield from row.captions


def _check_image(report: Report, row: Row, side: int | None, seen: set[bytes]) -> None:
    """Decode one image and count what it is."""
    try:
        content = row.content
        width, height = load_rgb(content, row.name).size
        with open_image(content) as image:
            animated = " animated" if getattr(image, "n_frames", 1) > 1 else ""
            report.kinds[f"{image.format} {image.mode}{animated}"] += 1
    except BadSampleError as error:
        report.problems.append(str(error))
        return
    except DAMAGE as error:  # no such file, or an animation whose first frame alone is whole
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        report.problems.append(f"{row.name}: {reason}")
        return
    report.sides.append((width, height))
    if side is not None and min(width, height) < side:
        report.small += 1
        report.problems.append(f"{row.name}: {width} x {height} is smaller than {side} px")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    report.duplicates += digest in seen
    seen.add(digest)
