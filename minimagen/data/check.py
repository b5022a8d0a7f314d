"""Is this data fit to train on? Counts, sizes, duplicates, captions, and what is unreadable."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from minimagen.data.dataset import BadSampleError, Dataset, Row
from minimagen.data.images.decoding import DAMAGE, load_rgb, open_image

SHOWN = 20  # unreadable files named; the rest is counted
COUNTED_AT_ONCE = 1000  # captions tokenized together

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass
class Report:
    """What was found in one part (training, validation) of the data."""

    name: str
    pictures: int = 0
    captions: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    sides: list[tuple[int, int]] = field(default_factory=list)  # (width, height)
    duplicates: int = 0
    small: int = 0
    tokens: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def text(self, side: int | None, max_tokens: int) -> str:
        """Return the report as text."""
        lines = [f"{self.name}: {self.pictures} pictures, {self.captions} captions"]
        if self.sides:
            smallest, largest = (f(self.sides, key=lambda s: s[0] * s[1]) for f in (min, max))
            shorter = statistics.median(min(size) for size in self.sides)
            lines.append(
                f"  sizes: {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]}, median "
                f"of the shorter sides {shorter:g}"
            )
            lines.append(
                "  kinds: " + ", ".join(f"{n} {kind}" for kind, n in self.kinds.most_common())
            )
        if side is not None:
            lines.append(f"  smaller than {side} px: {self.small}")
        lines.append(f"  duplicates (the same file again): {self.duplicates}")
        if self.tokens:
            cut = sum(n > max_tokens for n in self.tokens)
            lines.append(
                f"  tokens per caption: {min(self.tokens)} to {max(self.tokens)}, median "
                f"{statistics.median(self.tokens):g}; longer than {max_tokens}, so cut: {cut}"
            )
        lines += [f"  PROBLEM {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"  ... and {len(self.problems) - SHOWN} more problems")
        return "\n".join(lines)


def check(dataset: Dataset, count_tokens: CountTokens, side: int | None) -> list[Report]:
    """Read every picture and caption once.

    Args:
        dataset: from `load_dataset`; the embedded data needs no check.
        count_tokens: from captions to their numbers of tokens.
        side: smaller pictures are problems; None allows any size.

    Raises:
        UserError: the data is not made of files.
    """
    parts = {"training": dataset.rows()}
    if dataset.validation is not None:
        parts["validation"] = dataset.validation.rows()
    seen: set[bytes] = set()  # of all parts: a validation picture that is trained on is a mistake
    return [_check_part(name, rows, count_tokens, side, seen) for name, rows in parts.items()]


def _check_part(
    name: str,
    rows: Iterator[Row | BadSampleError],
    count_tokens: CountTokens,
    side: int | None,
    seen: set[bytes],
) -> Report:
    report = Report(name)
    waiting: list[str] = []
    for row in rows:
        report.pictures += 1
        if isinstance(row, BadSampleError):
            report.problems.append(str(row))
            continue
        _check_picture(report, row, side, seen)
        if not row.captions:
            report.problems.append(f"{row.name}: no caption")
        report.captions += len(row.captions)
        waiting += row.captions
        if len(waiting) >= COUNTED_AT_ONCE:
            report.tokens += count_tokens(waiting)
            waiting = []
    if waiting:
        report.tokens += count_tokens(waiting)
    if not report.pictures:
        report.problems.append("no pictures")
    return report


def _check_picture(report: Report, row: Row, side: int | None, seen: set[bytes]) -> None:
    """Decode one picture and count what it is."""
    try:
        content = row.content
        width, height = load_rgb(content, row.name).size
        with open_image(content) as picture:
            kind = f"{picture.format} {picture.mode}"
            frames = getattr(picture, "n_frames", 1)
    except BadSampleError as error:
        report.problems.append(str(error))
        return
    except DAMAGE as error:  # no such file, or an animation whose first frame alone is whole
        report.problems.append(f"{row.name}: {error}")
        return
    report.kinds[kind + (" animated" if frames > 1 else "")] += 1
    report.sides.append((width, height))
    if side is not None and min(width, height) < side:
        report.small += 1
        report.problems.append(f"{row.name}: {width} x {height} is smaller than {side} px")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    report.duplicates += digest in seen
    seen.add(digest)
