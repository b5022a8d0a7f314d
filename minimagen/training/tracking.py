"""What a run reports: a progress bar, a log for people, a log for programs, a board."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL.Image import Image

from minimagen.config.training import UNKNOWN
from minimagen.progress import tqdm
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.metadata import save_png
from minimagen.training.forecast import duration

UNSTEADY = 10.0  # seconds in which steps are still slow
Left = Callable[[float, float], float | None]


class TensorBoard:
    """Curves and sheets in ``tensorboard/`` of the training directory."""

    def __init__(self, directory: TrainingDirectory) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(directory.path / "tensorboard")
        self.close = self._writer.close

    def log(self, values: dict[str, float], step: int) -> None:
        """Show numbers."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, name: str, image: Image, step: int) -> None:
        """Show an image."""
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")


class WandB:
    """The same for a run in the project ``minimagen``, with the training directory's name."""

    def __init__(self, directory: TrainingDirectory) -> None:
        import wandb

        path = directory.path
        self._run: Any = wandb.init(project="minimagen", name=path.name, dir=str(path))
        self._image: Any = wandb.Image
        self.log, self.close = self._run.log, self._run.finish

    def show(self, name: str, image: Image, step: int) -> None:
        """Show an image."""
        self.log({name: self._image(image)}, step)


def open_board(name: str, directory: TrainingDirectory) -> TensorBoard | WandB | None:
    """Return the board called ``name``; None for ``none``."""
    if name == "none":
        return None
    return TensorBoard(directory) if name == "tensorboard" else WandB(directory)


class Tracker:
    """Writes ``training_progress.txt``, ``metrics.jsonl`` and ``samples/``; shows the progress bar.

    Inside its ``with``, numbers and sample sheets also go to a board; its end closes the board.

    Args:
        directory: The training directory.
        steps: Steps of each learner, which may change: on a board all have one axis, one after the
            other.
        board: ``none``, ``tensorboard`` or ``wandb``.
        enabled: False on all ranks but rank 0: nothing is written or printed.
        keys: Of each learner the stage's index, or its name; 0, 1 ... by default.
        wording: Rewrites each line for people.
    """

    def __init__(
        self,
        directory: TrainingDirectory,
        steps: Sequence[int],
        board: str,
        enabled: bool = True,
        keys: Sequence[int | str] = (),
        wording: Callable[[str], str] = str,
    ) -> None:
        self.directory = directory
        self.newest_sheet: Path | None = None
        self._wording = wording
        self._keys = keys or range(len(steps))
        self.steps = list(steps)
        self._enabled = enabled
        self._board = open_board(board, directory) if enabled else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._board:
            self._board.close()

    def log(self, line: str) -> None:
        """Print a line and write it to the log for people."""
        if not self._enabled:
            return
        line = self._wording(line)
        tqdm.write(line)
        with self.directory.progress.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def record(self, i: int, step: int, **values: float) -> None:
        """Write ``values`` of learner ``i`` to the log for programs, and show them on the board."""
        if not self._enabled:
            return
        kind = "stage" if isinstance(self._keys[i], int) else "learner"
        line = {"time": time.time(), kind: self._keys[i], "step": step, **values}
        with self.directory.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board:
            named = {f"{self._name(i)}/{name}": value for name, value in values.items()}
            self._board.log(named, self._on_board(i, step))

    def sheet(self, i: int, step: int, sheet: Image) -> None:
        """Write a sample sheet of learner ``i``, and show it on the board."""
        self.newest_sheet = self.directory.samples / f"{self._name(i)}_step_{step:08d}.png"
        save_png(self.newest_sheet, sheet)
        if self._board:
            self._board.show(self._name(i), sheet, self._on_board(i, step))

    def _name(self, i: int) -> str:
        key = self._keys[i]
        return f"stage_{key}" if isinstance(key, int) else key

    def _on_board(self, i: int, step: int) -> int:
        return sum(_shown(steps) or 0 for steps in self.steps[:i]) + step

    @contextmanager
    def bar(
        self, i: int, done: int, images_per_step: int, left: Left | None = None
    ) -> Iterator["Bar"]:
        """Show the progress of learner ``i``, of which ``done`` steps are made.

        ``left`` gives the time of the whole run, where that is not the learner's own.
        """
        with tqdm(
            initial=done,
            total=_shown(self.steps[i]),
            desc=self._name(i).replace("_", " "),
            unit="step",
            mininterval=1.0,
            disable=not self._enabled,
        ) as bar:
            yield Bar(bar, images_per_step, lambda: _shown(self.steps[i]), left)


def _shown(steps: int) -> int | None:
    return None if steps == UNKNOWN else steps


class Bar:
    """A progress bar with the running mean of the loss.

    The learner's own time left is tqdm's, that of the run ``left``'s, given the learner's and the
    seconds of a step.
    """

    def __init__(
        self,
        bar: Any,
        images_per_step: int,
        total: Callable[[], int | None],
        left: Left | None = None,
    ) -> None:
        self._bar, self._images_per_step, self._total = bar, images_per_step, total
        self._left = left
        self.loss = math.nan

    @property
    def rate(self) -> float:
        """Return the images per second."""
        return (self._bar.format_dict["rate"] or 0.0) * self._images_per_step

    @property
    def left(self) -> tuple[float, float | None] | None:
        """Return the seconds left, the learner's and the run's; None in the first seconds."""
        rate, total = self._bar.format_dict["rate"], self._total()
        if not rate or total is None or self._bar.format_dict["elapsed"] < UNSTEADY:
            return None
        own = max(0.0, total - self._bar.n) / rate
        return own, own if self._left is None else self._left(own, 1 / rate)

    def update(self, losses: Sequence[float]) -> None:
        """Count the steps that had these losses."""
        for loss in losses:
            self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
        self._bar.total = self._total()
        left = self.left if self._left else None
        in_all = f", {duration(left[1])} left in all" if left and left[1] is not None else ""
        self._bar.set_postfix_str(
            f"loss {self.loss:.4f}, {self.rate:.0f} images/s{in_all}", refresh=False
        )
        self._bar.update(len(losses))
