"""The figures of an evaluation, and ``evaluation.json``, which keeps them."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minimagen.checked import Config
from minimagen.errors import UserError
from minimagen.storage.card import NO_FIGURES, OTHER_WEIGHTS
from minimagen.storage.directory import Choices, TrainingDirectory, read_imagen_config
from minimagen.storage.files import read_json, write_json
from minimagen.storage.model_hash import model_hash

FILE = "evaluation.json"


class Figure(Config):
    """One measured number."""

    group: str
    """What it belongs to, a heading."""
    name: str
    """What was measured."""
    value: float
    """Of the generated images."""
    unit: str = ""
    """Such as % or dB; empty for a plain number."""
    n: int
    """Images."""
    low: float | None = None
    """The lower end of the 95 % interval, where there is one."""
    high: float | None = None
    """Its upper end."""
    real: float | None = None
    """The same of real images: the floor of a distance, the ceiling of an accuracy."""

    @property
    def interval(self) -> str:
        """Return the interval as text."""
        if self.low is None or self.high is None:
            return ""
        return f"{shown(self.low)} to {shown(self.high)}"


class Record(Config):
    """The whole of ``evaluation.json``."""

    date: str
    """When it was evaluated."""
    device: str
    """Where."""
    dataset: str
    """What it was evaluated on."""
    split: str
    """Which part of that."""
    features: str
    """The network whose features distances are taken in."""
    seed: int
    """Of image 0; image i has seed + i."""
    sampling: tuple[dict[str, Any], ...]
    """Of each stage."""
    figures: tuple[Figure, ...]
    """What was found."""
    verdicts: tuple[str, ...]
    """Findings in words: copies of training images, limits."""
    weights: tuple[str | int, ...] = ()
    """Which weights they are, see ``load_learners``; none in files from before it was kept."""
    model: str = ""
    """Their hash, see ``model_hash``; empty in files from before it was kept."""
    captions_seed: int = 0
    """Of drawn captions."""


def other_settings(directory: TrainingDirectory, record: Record) -> str:
    """Return which sampling settings are not the directory's own; "" where all are."""
    stages = read_imagen_config(directory.parameters).stages
    own = [stage.sampling.model_dump(mode="json") for stage in stages]
    return "; ".join(
        f"stage {i}: {name} {value}, not {before[name]}"
        for i, (found, before) in enumerate(zip(record.sampling, own, strict=False))
        for name, value in found.items()
        if name in before and before[name] != value
    )


def fits(directory: TrainingDirectory, record: Record, weights: Choices | None = None) -> bool:
    """Return whether figures are of these weights, by default of those that they name."""
    try:
        found = model_hash(directory, record.weights if weights is None else weights)
    except UserError:  # such weights are not there any more
        return False
    return found == record.model


def shown(value: float) -> str:
    """Return a number with about three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{min(4, max(0, 2 - math.floor(math.log10(abs(value)))))}f}"


def cells(figures: Iterable[Figure]) -> list[list[str]]:
    """Return rows of text: name, value, interval, real images, n."""
    return [
        [
            f"{each.group}: {each.name}",
            f"{shown(each.value)} {each.unit}".strip(),
            each.interval,
            "" if each.real is None else shown(each.real),
            str(each.n),
        ]
        for each in figures
    ]


HEADINGS = ["figure", "generated", "95 % interval", "real images", "n"]


def write_record(folder: Path, record: Record) -> None:
    """Write ``evaluation.json``."""
    write_json(folder / FILE, record)


def read_record(folder: Path) -> Record | None:
    """Return what ``evaluation.json`` of a folder says, None where there is none.

    Raises:
        UserError: It is not such a file.
    """
    path = folder / FILE
    return Record.read(read_json(path), str(path)) if path.is_file() else None


def figures_text(
    directory: TrainingDirectory, record: Record | None, weights: Choices = "final"
) -> str:
    """Return figures as a table, with their numbers of samples and what they are of.

    Args:
        directory: The weights that the card is of, and their settings.
        record: An evaluation; it counts if it is of these weights, see ``fits``.
        weights: Which of the directory's.
    """
    if record is None or not record.figures:
        return NO_FIGURES
    if not fits(directory, record, weights):
        return OTHER_WEIGHTS
    others = other_settings(directory, record)
    said = (
        f"`python -m minimagen evaluate`, {record.date}, on `{Path(record.dataset).name}` "
        f"({record.split}); features of {record.features}"
    )
    said += f"; sampled with {others}." if others else "."
    rows = [HEADINGS, ["---"] * len(HEADINGS), *cells(record.figures)]
    return "\n".join([said, "", *(f"| {' | '.join(row)} |" for row in rows)])
