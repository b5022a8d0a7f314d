"""What the page shows of a training run, also while it trains."""

import re
import time
from pathlib import Path

from minimagen.evaluation.charts import chart
from minimagen.evaluation.history import learner_of, read_history, read_rows
from minimagen.storage.directory import TrainingDirectory
from minimagen.training.forecast import duration

LINES = 12  # of the log that are shown
NEWEST = 5  # rows of the log: the newest time left may be a few old
STALE = 600  # s without a row: the run has probably stopped


def losses(path: Path) -> str:
    """Return a chart of the losses in the log as HTML: of each learner, and its validation's."""
    history = read_history(TrainingDirectory(path)).curves
    lines = {
        name + suffix: points
        for key, suffix in (("loss", ""), ("valid_loss", ", validation"))
        for name, points in history.get(key, {}).items()
    }
    return chart("Loss", lines, logarithmic=True)


def state(path: Path) -> str:
    """Return where a run is: its learner, its step, the time left where that is known."""
    directory = TrainingDirectory(path)
    if not directory.progress.is_file():
        return "This run has not begun."
    log = directory.progress.read_text("utf-8", errors="replace").strip()
    if "training finished" in log.rpartition("\n")[2]:
        return "Finished."
    rows = read_rows(directory)
    if not rows:
        return "No step is logged yet."
    where = f"{learner_of(rows[-1])}, step {rows[-1]['step']}"
    age = time.time() - float(rows[-1].get("time", 0.0))
    left = [row["seconds_left"] for row in rows[-NEWEST:] if "seconds_left" in row]
    if age > STALE:
        return f"{where}; nothing was logged for {duration(age)}."
    return f"{where}" + (f", about {duration(max(0.0, left[-1] - age))} left." if left else ".")


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
