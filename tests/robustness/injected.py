"""``train.py`` with one fault inside: ``python -m tests.robustness.injected FAULT WHEN ...``."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SLOW = 0.01  # seconds to read an image, as from a network drive
SHORT = 2.0  # seconds that ``impatient`` waits


def nan_batch(when: int) -> None:
    """Let the loss of the step after ``when`` steps of the last stage be not a number."""
    from minimagen.training.trainer import Trainer

    losses = Trainer._losses

    def broken(self: Trainer, loss: Any, batch: Any, draws: Any) -> Any:
        found = losses(self, loss, batch, draws)
        return found * float("nan") if self.key == 1 and draws.step == when else found

    Trainer._losses = broken  # type: ignore[method-assign,assignment]


def full_disk(when: int) -> None:
    """Let the disk be full when the ``when``-th file of tensors is half written."""
    from minimagen.storage import checkpoint

    save, count = checkpoint.save_file, 0

    def full(tensors: Any, path: Path, *header: Any) -> None:
        nonlocal count
        count += 1
        save(tensors, path, *header)
        if count >= when:
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    checkpoint.save_file = full  # type: ignore[assignment]


def slow_data(when: int) -> None:
    """Let reading an image take a while, so that there is time to move the folder."""
    from minimagen.data.images.absence import FileReader

    read = FileReader.read

    def slow(self: FileReader, path: Path) -> bytes:
        time.sleep(SLOW)
        return read(self, path)

    FileReader.read = slow  # type: ignore[method-assign]


def impatient(when: int) -> None:
    """The same, and a short wait for data that is unavailable."""
    from minimagen.data.images import absence

    slow_data(when)
    absence.PATIENCE = SHORT


def killed(when: int) -> None:
    """Let the process be killed (SIGKILL) in its training step ``when``, of all learners."""
    from minimagen.training.trainer import Trainer

    backward, count = Trainer._backward, 0

    def dying(self: Trainer, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return backward(self, batch)

    Trainer._backward = dying  # type: ignore[method-assign,assignment]


FAULTS: dict[str, Callable[[int], None]] = {
    each.__name__: each for each in (nan_batch, full_disk, slow_data, impatient, killed)
}


def main(argv: Sequence[str]) -> int:
    """Prepare the fault and train; return train.py's exit code."""
    from minimagen.cli import train

    FAULTS[argv[0]](int(argv[1]))
    return train.entry(list(argv[2:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
