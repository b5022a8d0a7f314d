"""Ctrl-C and SIGTERM: finish the step, save everything, then stop."""

import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The run was asked to stop, and all is saved in ``directory``; ``signum`` says by what."""

    def __init__(self, signum: int, message: str, directory: Path | None = None) -> None:
        super().__init__(message)
        self.signum, self.directory = signum, directory


class _Signaled(BaseException):
    """A signal came while the run waited for data: there is nothing to finish."""


class StopSignals:
    """Inside the ``with``, the first SIGINT or SIGTERM is noted; a second one acts at once.

    While ``until_stopped`` waits for the next item, the first one acts at once too. Signal handlers
    belong to the main thread; elsewhere this notes nothing.

    Args:
        launched: Whether a launcher started this process. It passes on a Ctrl-C that the process
            has seen already: then a second signal is noted too, and the launcher's patience counts.
    """

    def __init__(self, launched: bool = False) -> None:
        self.received: int | None = None
        self._waiting = False
        self._launched = launched
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for signum in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[signum] = signal.signal(signum, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and no more once a signal has come: it also ends what ``items`` does."""
        remaining = iter(items)
        while self.received is None:
            try:
                self._waiting = True
                item = next(remaining)
                self._waiting = False
            except (StopIteration, _Signaled):
                return
            finally:
                self._waiting = False
            yield item

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        if not self._launched:
            for each, handler in self._before.items():
                signal.signal(each, handler)
        if self._waiting:
            self._waiting = False
            raise _Signaled
