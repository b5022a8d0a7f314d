"""Curves and sample sheets for TensorBoard or Weights & Biases, through accelerate's trackers."""

import importlib.util
from typing import Any

import numpy as np
from PIL.Image import Image

from minimagen.errors import UserError
from minimagen.storage.directory import TrainingDirectory
from minimagen.training.processes.alone import Processes


class Board:
    """One of accelerate's trackers."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker

    def log(self, values: dict[str, float], step: int) -> None:
        """Show numbers."""
        self._tracker.log(values, step=step)

    def show(self, name: str, sheet: Image, step: int) -> None:
        """Show a picture."""
        options = {"dataformats": "NHWC"} if self._tracker.name == "tensorboard" else {}
        self._tracker.log_images({name: np.asarray(sheet)[None]}, step=step, **options)

    def end(self) -> None:
        """Write what is not written yet."""
        self._tracker.finish()


def check_board(name: str) -> None:
    """Raise a UserError unless the package of a tracker is installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(
            f"`tracker` {name} needs a package that is not installed: pip install {name}"
        )


def start_board(name: str, directory: TrainingDirectory, processes: Processes) -> Board | None:
    """Return the tracker called ``name`` in the main process; None elsewhere, and for ``none``.

    TensorBoard's files are in ``tensorboard/`` of the training directory.
    """
    if name == "none" or not processes.is_main:
        return None
    from accelerate import Accelerator

    cpu = processes.device.type == "cpu"
    accelerator = Accelerator(
        cpu=cpu, mixed_precision="no", log_with=name, project_dir=directory.path
    )
    if name == "tensorboard":
        accelerator.init_trackers("tensorboard")  # the name of its folder
    else:
        options = {"name": directory.path.name, "dir": str(directory.path)}
        accelerator.init_trackers("minimagen", init_kwargs={name: options})
    return Board(accelerator.trackers[0])
