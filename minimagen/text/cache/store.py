"""The encodings of one text encoder on disk, shared between runs and between processes.

A folder of segments (``segments.py``). Every process adds segments under names of its own and sees
those of the others when it misses something, so none waits for another, and whoever is killed loses
what it had not written yet. The more segments there are, the more captions the next one waits for:
so they stay few, and a look-up, which asks each of them, stays fast.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import cannot_write
from minimagen.text.cache.segments import (
    HASH_BYTES,
    SUFFIX,
    DamagedSegmentError,
    Segment,
    open_segment,
    write_segment,
)

FORMAT = 1  # of the segments; another number, and older ones are not found
WAITED_FOR = 8  # captions that a new segment needs for each one that there is,
ENOUGH = 32 * 2**20  # but not more bytes than these
LEFT_FREE, LEFT_FREE_SHARE = 10 * 2**30, 0.1  # of the disk, the smaller of the two, bytes
ABANDONED_AFTER = 86_400  # seconds; an unfinished file this old has lost its writer

log = logging.getLogger(__name__)


def store_folder(name: str, fingerprint: str) -> Path:
    """Return the existing folder of an encoder: of its name and of what it computes.

    Raises:
        UserError: it cannot be made.
    """
    readable = re.sub(r"[^\w.-]+", "-", Path(name).name)
    key = hashlib.blake2b(f"{FORMAT} bf16 {fingerprint}".encode(), digest_size=8).hexdigest()
    return cache_folder(f"embeddings/{readable}-{key}")


def hash_of(caption: str) -> bytes:
    """Return what a caption is found by."""
    text = caption.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=HASH_BYTES).digest()


class EmbeddingStore:
    """Encodings by caption; memory does not grow with their number.

    Args:
        folder: Of one encoder, see ``store_folder``.
        max_bytes: When the folder holds this much, nothing more is written.

    Attributes:
        refused: Why nothing can be written; None while it can.
    """

    def __init__(self, folder: Path, max_bytes: float = float("inf")) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.refused: str | None = None
        self._segments: dict[str, Segment] = {}
        self._ignored: set[str] = set()
        self._pending: dict[bytes, Tensor] = {}
        self._warned_of_damage = False
        self._at_exit = weakref.finalize(self, _write_rest, folder, self._pending)
        self._remove_abandoned()
        self._look()

    def __len__(self) -> int:
        """Return the number of captions seen so far, here or on the disk."""
        stored = sum(len(segment.index.hashes) for segment in self._segments.values())
        return stored + len(self._pending)

    @property
    def size(self) -> int:
        """Bytes of all encodings seen so far."""
        return sum(segment.size for segment in self._segments.values()) + self._pending_bytes

    @property
    def _pending_bytes(self) -> int:
        return sum(embeds.nbytes for embeds in self._pending.values())

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Return those encodings that are here, bfloat16 ``[n_i, d]``, by ``hash_of`` caption."""
        found = self._find(hashes)
        if len(found) < len(hashes) and self._look():  # another process may have added some
            found |= self._find([each for each in hashes if each not in found])
        return found

    def add(self, encodings: Mapping[bytes, Tensor]) -> None:
        """Take encodings, and write a segment once they are enough for one; at the latest at exit.

        If that is impossible, a warning says so once, and no more is written.
        """
        if self.refused or self.size >= self.max_bytes:
            return
        self._pending |= encodings
        enough = len(self._pending) >= WAITED_FOR * len(self._segments)
        if enough or self._pending_bytes >= ENOUGH:
            self.flush()

    def flush(self) -> None:
        """Write what was added and is not on the disk yet."""
        if not self._pending or self.refused:
            return
        try:
            disk = shutil.disk_usage(self.folder)
            if disk.free < min(LEFT_FREE, LEFT_FREE_SHARE * disk.total):
                raise cannot_write(self.folder, OSError(errno.ENOSPC, "the disk is nearly full"))
            self._open(write_segment(self.folder, self._pending).name)
        except (OSError, UserError) as error:
            self.refused = str(error)
            log.warning("text embeddings are no longer kept: %s", error)
        self._pending.clear()

    def _find(self, hashes: Sequence[bytes]) -> dict[bytes, Tensor]:
        found = {each: self._pending[each] for each in hashes if each in self._pending}
        for segment in self._segments.values():
            wanted = [each for each in hashes if each not in found]
            if not wanted:
                break
            for each, embeds in segment.find(wanted):
                if embeds is None:
                    self._warn_of_damage(f"an encoding in {segment.path} is damaged")
                else:
                    found[each] = embeds
        return found

    def _look(self) -> bool:
        """Open segments that are new; return whether there are any."""
        try:
            names = {name for name in os.listdir(self.folder) if name.endswith(SUFFIX)}
        except OSError:
            return False
        new = [name for name in names - self._segments.keys() if self._open(name)]
        return bool(new)

    def _open(self, name: str) -> bool:
        if name in self._ignored:
            return False
        path = self.folder / name
        try:
            self._segments[name] = open_segment(path)
        except DamagedSegmentError as error:
            self._warn_of_damage(str(error))
            with suppress(OSError):
                path.unlink()
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error)
        if name not in self._segments:
            self._ignored.add(name)
        return name in self._segments

    def _warn_of_damage(self, what: str) -> None:
        if not self._warned_of_damage:
            log.warning("%s; whatever is damaged is encoded again", what)
        self._warned_of_damage = True

    def _remove_abandoned(self) -> None:
        for part in self.folder.glob("*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > ABANDONED_AFTER:
                    part.unlink()


def _write_rest(folder: Path, pending: Mapping[bytes, Tensor]) -> None:
    """Write what a store that is no longer used had not written; it is lost if that fails."""
    if pending:
        with suppress(OSError, UserError):
            write_segment(folder, pending)
