"""A source that is unavailable for a while: a network drive, a disk that is plugged in again.

Its images are not bad, so they are not counted: the run waits, logs that once, and goes on with
the same samples when the source is back.
"""

import logging
import time
from collections import deque
from pathlib import Path

from minimagen.errors import UserError

PATIENCE = 300.0  # seconds; as long as a file server needs to start again
PAUSES = (0.5, 15.0)  # seconds between two looks: the first one, and the longest
LAST_READ = 8  # files; while one of them can be read, the source is available

log = logging.getLogger(__name__)


class Absence:
    """Counts how long a source has been unavailable."""

    def __init__(self) -> None:
        self._waited, self._pause = 0.0, PAUSES[0]

    def wait(self, reason: str) -> None:
        """Log once that the source is unavailable, and pause, longer each time.

        Raises:
            UserError: it has been unavailable for longer than the longest wait.
        """
        if self._waited >= PATIENCE:
            raise UserError(
                f"the data has been unavailable for {self._waited:.0f} s ({reason}): bring it "
                "back and continue from the last checkpoint with `resume`"
            )
        if not self._waited:
            words = "the data is unavailable (%s): waiting up to %.0f s for it"
            log.warning(words, reason, PATIENCE)
        pause = min(self._pause, PATIENCE - self._waited)
        time.sleep(pause)
        self._waited += pause
        self._pause = min(2 * self._pause, PAUSES[1])

    def over(self) -> None:
        """Log that the source is back, if it was unavailable."""
        if self._waited:
            log.warning("the data is back after %.0f s", self._waited)
        self._waited, self._pause = 0.0, PAUSES[0]


class FileReader:
    """Reads files of one source, and distinguishes a missing file from an unavailable source."""

    def __init__(self) -> None:
        self._last_read: deque[Path] = deque(maxlen=LAST_READ)

    def read(self, path: Path) -> bytes:
        """Return a file's content; while files that were there before are gone too, wait.

        Raises:
            OSError: this file cannot be read, others can; or none could ever be read.
            UserError: the source did not come back.
        """
        absence = Absence()
        while True:
            try:
                content = path.read_bytes()
            except OSError as error:
                if not self._last_read or any(map(_can_be_read, self._last_read)):
                    absence.over()
                    raise
                absence.wait(str(error))
            else:
                absence.over()
                self._last_read.append(path)
                return content


def _can_be_read(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True
