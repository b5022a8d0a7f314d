"""What a run says while it runs: a progress bar, a log for people, a log for programs, a board."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL.Image import Image

from minimagen.progress import tqdm
from minimagen.training.boards import Board


class Tracker:
    """Writes ``training_progress.txt`` and ``metrics.jsonl`` and keeps the progress bar.

    Args:
        progress: The log for people.
        metrics: The log for programs.
        talks: Whether this process is the one that prints and writes; the others do neither.
        board: Where else numbers and sheets go.
    """

    def __init__(
        self, progress: Path, metrics: Path, talks: bool = True, board: Board | None = None
    ) -> None:
        self._progress = progress
        self._metrics = metrics
        self._talks = talks
        self._board = board

    def say(self, line: str) -> None:
        """Print a line and keep it in the log for people."""
        if not self._talks:
            return
        tqdm.write(line)
        with self._progress.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def record(self, stage: int, step: int, before: int, **values: float) -> None:
        """Keep ``values`` in the log for programs, and show them.

        Args:
            stage: Of the cascade.
            step: Of the stage.
            before: Steps of the stages before, for a board, whose curves have one axis.
            values: By name.
        """
        if not self._talks:
            return
        line = {"time": time.time(), "stage": stage, "step": step, **values}
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board:
            named = {f"stage_{stage}/{name}": value for name, value in values.items()}
            self._board.log(named, before + step)

    def show(self, name: str, sheet: Image, step: int) -> None:
        """Show a sample sheet on the board."""
        if self._board:
            self._board.show(name, sheet, step)

    def end(self) -> None:
        """Close the board."""
        if self._board:
            self._board.end()

    @contextmanager
    def bar(self, name: str, done: int, total: int, images_per_step: int) -> Iterator["Bar"]:
        """Show the progress of ``total`` steps."""
        with tqdm(
            initial=done,
            total=total,
            desc=name,
            unit="step",
            mininterval=1.0,
            disable=not self._talks,
        ) as bar:
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

    @property
    def rate(self) -> float:
        """Return the images per second."""
        return (self._bar.format_dict["rate"] or 0.0) * self._images_per_step

    def update(self, loss: float) -> None:
        """Count one step."""
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        self._bar.set_postfix_str(f"loss {self._loss:.4f}, {self.rate:.0f} images/s", refresh=False)
        self._bar.update()
