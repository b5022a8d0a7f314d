"""What the page shows of a training run, also while it trains."""

import re
from pathlib import Path
from typing import Any

from minimagen.evaluation.history import read_history
from minimagen.storage.directory import TrainingDirectory

LINES = 12  # of the log that are shown


def curves(path: Path) -> list[dict[str, Any]]:
    """Return one row for each loss in the log: step, loss, curve ("stage 0", "... validation")."""
    history = read_history(TrainingDirectory(path)).curves
    return [
        {"step": step, "loss": loss, "curve": name + suffix}
        for key, suffix in (("loss", ""), ("valid_loss", ", validation"))
        for name, points in history.get(key, {}).items()
        for step, loss in points
    ]


def newest_sheet(path: Path) -> Path | None:
    """Return the newest sheet of samples."""
    sheets = [*TrainingDirectory(path).samples.rglob("*.png")]
    return max(sheets, key=lambda sheet: sheet.stat().st_mtime, default=None)


def log_lines(path: Path) -> str:
    """Return the last lines of the log, without control characters."""
    file = TrainingDirectory(path).progress
    if not file.is_file():
        return "This run has not begun."
    lines = file.read_text("utf-8", errors="replace").strip().split("\n")[-LINES:]
    return re.sub(r"[^\x20-\x7e\n\u00a0-\uffff]", "", "\n".join(lines))
