"""The encodings of one text encoder on disk, shared between runs and between processes.

A folder of segments (``segments.py``). Every process adds segments under names of its own and sees
those of the others when it misses something, so none waits for another, and whoever is killed loses
only the segment that it was writing. One process at a time merges small segments into larger ones.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import cannot_write, locked
from minimagen.text.cache.segments import (
    HASH_BYTES,
    SUFFIX,
    DamagedSegmentError,
    Segment,
    merge_segments,
    open_segment,
    write_segment,
)

FORMAT = 1  # of the segments; another number, and older ones are not found
TIERS = (2 * 2**20, 32 * 2**20, 512 * 2**20)  # bytes of a segment
MERGED_FROM = 16  # segments below one of these sizes
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
        self._told_damage = False
        self._remove_abandoned()
        self._look()

    def __len__(self) -> int:
        """Return the number of captions in all segments seen so far."""
        return sum(len(segment.index.hashes) for segment in self._segments.values())

    @property
    def size(self) -> int:
        """Bytes of all encodings seen so far."""
        return sum(segment.size for segment in self._segments.values())

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Return those encodings that are here, bfloat16 ``[n_i, d]``, by ``hash_of`` caption."""
        found = self._find(hashes)
        if len(found) < len(hashes) and self._look():  # another process may have added some
            found |= self._find([each for each in hashes if each not in found])
        return found

    def add(self, encodings: dict[bytes, Tensor]) -> None:
        """Write a segment; if that is impossible, say so once and write no more."""
        if self.refused or self.size >= self.max_bytes:
            return
        try:
            disk = shutil.disk_usage(self.folder)
            if disk.free < min(LEFT_FREE, LEFT_FREE_SHARE * disk.total):
                raise cannot_write(self.folder, OSError(errno.ENOSPC, "the disk is nearly full"))
            self._open(write_segment(self.folder, encodings).name)
            self._merge()
        except (OSError, UserError) as error:
            self.refused = str(error)
            log.warning("text embeddings are no longer kept: %s", error)

    def _find(self, hashes: Sequence[bytes]) -> dict[bytes, Tensor]:
        found: dict[bytes, Tensor] = {}
        for segment in self._segments.values():
            wanted = [each for each in hashes if each not in found]
            if not wanted:
                break
            for each, embeds in segment.find(wanted):
                if embeds is None:
                    self._tell_damage(f"an encoding in {segment.path} is damaged")
                else:
                    found[each] = embeds
        return found

    def _look(self) -> bool:
        """Open segments that are new, forget those that were merged; tell if any is new."""
        try:
            names = {name for name in os.listdir(self.folder) if name.endswith(SUFFIX)}
        except OSError:
            return False
        for gone in self._segments.keys() - names:
            del self._segments[gone]
        new = [name for name in names - self._segments.keys() if self._open(name)]
        return bool(new)

    def _open(self, name: str) -> bool:
        if name in self._ignored:
            return False
        path = self.folder / name
        try:
            self._segments[name] = open_segment(path)
        except FileNotFoundError:  # merged just now: what it held is in a new one
            return False
        except DamagedSegmentError as error:
            self._tell_damage(str(error))
            with suppress(OSError):
                path.unlink()
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error)
        if name not in self._segments:
            self._ignored.add(name)
        return name in self._segments

    def _tell_damage(self, what: str) -> None:
        if not self._told_damage:
            log.warning("%s; whatever is damaged is encoded again", what)
        self._told_damage = True

    def _merge(self) -> None:
        """Merge where there are many segments of about one size, so that a look-up asks few."""
        if not any(len(self._below(tier)) >= MERGED_FROM for tier in TIERS):
            return
        with locked(self.folder / "merge.lock") as alone:
            if not alone:
                return
            self._look()  # another process may have done it
            for tier in TIERS:
                small = self._below(tier)
                if len(small) >= MERGED_FROM:
                    self._open(merge_segments(self.folder, small).name)
                    for segment in small:
                        del self._segments[segment.path.name]
                        segment.path.unlink(missing_ok=True)

    def _below(self, tier: int) -> list[Segment]:
        return [segment for segment in self._segments.values() if segment.size < tier]

    def _remove_abandoned(self) -> None:
        for part in self.folder.glob("*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > ABANDONED_AFTER:
                    part.unlink()
