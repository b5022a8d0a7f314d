"""Curves and sample sheets for TensorBoard or Weights & Biases."""

import importlib.util
from typing import Any, Protocol

import numpy as np
from PIL.Image import Image

from minimagen.errors import UserError
from minimagen.storage.directory import TrainingDirectory


class Board(Protocol):
    """Shows numbers and images on axes of steps."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Show numbers."""

    def show(self, name: str, image: Image, step: int) -> None:
        """Show an image."""

    def close(self) -> None:
        """Write what is not written yet."""


class _TensorBoard:
    """Writes into ``tensorboard/`` of the training directory."""

    def __init__(self, directory: TrainingDirectory) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(directory.path / "tensorboard")

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, name: str, image: Image, step: int) -> None:
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run in the project ``minimagen``, with the training directory's name."""

    def __init__(self, directory: TrainingDirectory) -> None:
        import wandb

        self._wandb: Any = wandb
        path = directory.path
        self._run: Any = wandb.init(project="minimagen", name=path.name, dir=str(path))

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def show(self, name: str, image: Image, step: int) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


def check_board(name: str) -> None:
    """Raise a UserError unless the package of a tracker is installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(
            f"`tracker` {name} needs a package that is not installed: pip install {name}"
        )


def open_board(name: str, directory: TrainingDirectory) -> Board | None:
    """Return the tracker called ``name``; None for ``none``."""
    if name == "none":
        return None
    return _TensorBoard(directory) if name == "tensorboard" else _WandB(directory)
