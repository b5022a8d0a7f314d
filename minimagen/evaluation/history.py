"""What a training logged: its curves and newest sheets, also while it is going on."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimagen.storage.directory import TrainingDirectory

CURVES = {
    "loss": "loss (running mean)",
    "valid_loss": "validation loss",
    "lr": "learning rate",
    "images_per_second": "images per second",
}
"""Keys of metrics.jsonl, and what they are."""

Points = list[tuple[float, float]]
"""(step, value)."""


@dataclass(frozen=True)
class History:
    """The curves of a run: ``curves[key][learner]`` are points; see ``CURVES``."""

    curves: dict[str, dict[str, Points]]

    @property
    def steps(self) -> dict[str, int]:
        """Return the last step of every learner."""
        last: dict[str, int] = {}
        for learners in self.curves.values():
            for name, points in learners.items():
                last[name] = max(last.get(name, 0), *(int(step) for step, _ in points))
        return last

    @property
    def bests(self) -> dict[str, float]:
        """Return the lowest validation loss of every learner that has one."""
        losses = self.curves.get("valid_loss", {})
        return {name: min(value for _, value in points) for name, points in losses.items()}


def read_rows(directory: TrainingDirectory) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a line that is being written, or is no JSON, is left out."""
    path, rows = directory.metrics, []
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def learner_of(row: Mapping[str, Any]) -> str:
    """Return the learner that a row is of, such as ``stage 0``."""
    return str(row["learner"]) if "learner" in row else f"stage {row.get('stage', 0)}"


def read_history(directory: TrainingDirectory) -> History:
    """Return the curves; where a run was resumed from an earlier step, the later row counts."""
    found: dict[str, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in read_rows(directory):
        for key in CURVES:
            value = row.get(key)
            if isinstance(value, int | float) and abs(value) < float("inf"):
                found[key][learner_of(row)][row["step"]] = float(value)
    ordered = {
        key: {name: sorted(points.items()) for name, points in found[key].items()}
        for key in CURVES
        if key in found
    }
    return History(ordered)


def newest_sheets(directory: TrainingDirectory) -> dict[str, Path]:
    """Return the newest sample sheet of every learner by its title."""
    newest: dict[str, Path] = {}
    for path in sorted(directory.samples.glob("*_step_*.png")):
        newest[path.stem.split("_step_")[0]] = path  # names sort by step
    return {f"{n.replace('_', ' ')}, step {_step(p)}": p for n, p in newest.items()}


def _step(path: Path) -> int:
    digits = path.stem.split("_step_")[1]
    return int(digits) if digits.isdecimal() else 0
