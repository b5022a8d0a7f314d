"""Work in a thread: its progress as it happens, its result at last."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from minimagen.errors import Stopped, UserError
from minimagen.images import to_pil
from minimagen.storage.metadata import Generation, parameters_text

PREVIEW = 256  # px
Report = Callable[[int, int, int, Tensor], bool]
"""Takes stage, step, number of steps and the estimate; returns whether to stop."""


@dataclass(frozen=True)
class Progress:
    """Where sampling is.

    Attributes:
        text: Stage, step, time left.
        preview: The estimate of the first image.
    """

    text: str
    preview: Image.Image


@dataclass(frozen=True)
class Result:
    """What was sampled.

    Attributes:
        paths: PNG files with their parameters, as they were written.
        sheet: A contact sheet, where there is one.
        made: How each image was made.
        seed: Of the first one.
        notes: What a user should know of them.
    """

    paths: list[Path]
    sheet: Path | None
    made: list[Generation]
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> str:
        """Return the parameters of the first image, as other programs read them."""
        return parameters_text(self.made[0]) if self.made else ""

    @property
    def exact(self) -> str:
        """Return the same exactly, as JSON."""
        return self.made[0].model_dump_json(indent=1) if self.made else ""


class Stream:
    """Runs work in a thread; yields its progress and, at last, its result. Closing it stops it.

    Args:
        work: Samples, and reports each step.
        lock: Held while it works: one at a time.
        preview: From a stage and an estimate to images, where there are any yet.
    """

    def __init__(
        self,
        work: Callable[[Report], Result],
        lock: threading.Lock,
        preview: Callable[[int, Tensor], Tensor | None],
    ) -> None:
        self._work, self._lock, self._preview = work, lock, preview
        self._stop = threading.Event()
        self._items: queue.Queue[Progress | Result | BaseException] = queue.Queue()
        self._begun = time.monotonic()  # when the first step of a stage was done

    def __iter__(self) -> Iterator[Progress | Result]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while True:
                item = self._items.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Result):
                    return
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        with self._lock:
            try:
                if not self._stop.is_set():
                    self._items.put(self._work(self._report))
            except Stopped:
                pass
            except torch.OutOfMemoryError:
                why = "The device has not enough memory: ask for fewer images, or a smaller model."
                self._items.put(UserError(why))
            except BaseException as error:  # handed to the thread that waits
                self._items.put(error)

    def _report(self, stage: int, step: int, steps: int, x_0_hat: Tensor) -> bool:
        if step == 0:
            self._begun = time.monotonic()
        shown = self._preview(stage, x_0_hat[:1]) if self._items.qsize() < 2 else None
        if shown is not None:
            (image,) = to_pil(shown)
            side = max(PREVIEW, image.width)
            size = side, round(side * image.height / image.width)
            text = f"Stage {stage}: step {step + 1} of {steps}"
            if step > 0 and steps - step > 1:
                left = (time.monotonic() - self._begun) / step * (steps - step - 1)
                text += f", about {left:.0f} s left of this stage"
            self._items.put(Progress(text, image.resize(size, Image.Resampling.NEAREST)))
        return self._stop.is_set()
