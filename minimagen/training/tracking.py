"""What a run says while it runs: a progress bar, a log for people, a log for programs."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)


class Tracker:
    """Writes ``training_progress.txt`` and ``metrics.jsonl`` and keeps the progress bar."""

    def __init__(self, progress: Path, metrics: Path) -> None:
        self._progress = progress
        self._metrics = metrics

    def say(self, line: str) -> None:
        """Print a line and keep it in the log for people."""
        tqdm.write(line)
        with self._progress.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def record(self, **values: Any) -> None:
        """Keep ``values`` in the log for programs."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), **values}) + "\n")

    @contextmanager
    def bar(self, name: str, done: int, total: int, images_per_step: int) -> Iterator["Bar"]:
        """Show the progress of ``total`` steps."""
        with tqdm(initial=done, total=total, desc=name, unit="step", mininterval=1.0) as bar:
            yield Bar(bar, images_per_step)


class Bar:
    """A progress bar with loss and images per second; time left is tqdm's own."""

    def __init__(self, bar: Any, images_per_step: int) -> None:
        self._bar = bar
        self._images_per_step = images_per_step
        self._loss: float | None = None

    @property
    def loss(self) -> float:
        """Return the running mean of the loss."""
        return self._loss if self._loss is not None else float("nan")

    def update(self, loss: float) -> None:
        """Count one step."""
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        rate = (self._bar.format_dict["rate"] or 0.0) * self._images_per_step
        self._bar.set_postfix_str(f"loss {self._loss:.4f}, {rate:.0f} images/s", refresh=False)
        self._bar.update()
