"""A source that goes away for a while: a network drive, a disk that is plugged in again.

Its pictures are not bad, so they are not counted: the run waits, says so once, and goes on with the
same samples when the source is back.
"""

import logging
import time
from collections import deque
from pathlib import Path

from minimagen.errors import UserError

PATIENCE = 300.0  # seconds; as long as a file server needs to start again
PAUSES = (0.5, 15.0)  # seconds between two looks: the first one, and the longest
WITNESSES = 8  # files read last; while one of them is there, the source is

log = logging.getLogger(__name__)


class Absence:
    """Counts how long a source has been away."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._pause = PAUSES[0]

    def wait(self, reason: str) -> None:
        """Say once that the source is away, and pause, longer each time.

        Raises:
            UserError: it has been away for longer than anybody waits.
        """
        if self._waited >= PATIENCE:
            raise UserError(
                f"the data has been away for {self._waited:.0f} s ({reason}): bring it back and go "
                "on from the last checkpoint with `resume`"
            )
        if not self._waited:
            log.warning("the data is away (%s): waiting up to %.0f s for it", reason, PATIENCE)
        pause = min(self._pause, PATIENCE - self._waited)
        time.sleep(pause)
        self._waited += pause
        self._pause = min(2 * self._pause, PAUSES[1])

    def over(self) -> None:
        """Say that the source is back, if it was away."""
        if self._waited:
            log.warning("the data is back after %.0f s", self._waited)
        self._waited, self._pause = 0.0, PAUSES[0]


class FileReader:
    """Reads files of one source, and tells a missing file from a missing source."""

    def __init__(self) -> None:
        self._witnesses: deque[Path] = deque(maxlen=WITNESSES)

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
                if not self._witnesses or any(map(_can_be_read, self._witnesses)):
                    absence.over()
                    raise
                absence.wait(str(error))
            else:
                absence.over()
                self._witnesses.append(path)
                return content


def _can_be_read(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True
