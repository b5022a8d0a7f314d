"""Encodings of captions or images on disk, shared between runs and between processes.

An SQLite database. A connection lives as long as one call, so no forked worker ever shares one, and
SQLite's rollback journal undoes what a killed process had half written. (Its other journal, WAL,
needs shared memory, which network file systems do not have.)
"""

import errno
import hashlib
import logging
import re
import shutil
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from minimagen.storage.cache import cache_folder
from minimagen.storage.files import cannot_write

FORMAT = 2  # of the database; another number, and older ones are not found
TABLE = (  # embeds: bfloat16 [tokens, d]; checksum: of the other three
    "CREATE TABLE IF NOT EXISTS captions "
    "(hash BLOB PRIMARY KEY, tokens INTEGER, embeds BLOB, checksum INTEGER)"
)
FIND = "SELECT hash, tokens, embeds, checksum FROM captions WHERE hash IN ({})"
REPLACE = "INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?)"
PAGE_BYTES = 16_384  # several captions share a page
PATIENCE = 30.0  # s; a commit of another process takes milliseconds
AT_ONCE = 500  # hashes in one query
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # no such table
FAULTS = (sqlite3.Error, UnicodeDecodeError)  # the latter where a message quotes damaged SQL
LEFT_FREE, LEFT_FREE_SHARE = 10 * 2**30, 0.1  # of the disk, the smaller of the two, bytes

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
    return hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class TensorStore:
    """Encodings by the hash of what is encoded; memory does not grow with their number.

    Args:
        folder: Of one encoder, see ``store_folder``.
        max_bytes: When the database is this large, nothing more is written.

    Attributes:
        path: The database.
        refused: Why nothing can be written; None while it can.
    """

    def __init__(self, folder: Path, max_bytes: float = float("inf")) -> None:
        self.path, self.max_bytes = folder / "captions.sqlite", max_bytes
        self.refused: str | None = None
        self._readable, self._warned_of_damage = True, False

    def __len__(self) -> int:
        """Return the number of captions in the database."""
        with self._connected() as database:
            return int(database.execute("SELECT count(*) FROM captions").fetchone()[0])

    @property
    def size(self) -> int:
        """Bytes of the database."""
        return self.path.stat().st_size if self.path.exists() else 0

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Return those encodings that are here, bfloat16 ``[n_i, d]``, by ``hash_of`` caption."""
        if not self._readable:
            return {}
        rows: list[tuple[Any, ...]] = []
        try:
            with self._connected() as database:
                for at in range(0, len(hashes), AT_ONCE):
                    part = hashes[at : at + AT_ONCE]
                    rows += database.execute(FIND.format(",".join("?" * len(part))), part)
        except FAULTS as error:
            self._readable = self._start_anew(error)
            return {}
        intact = [row for row in rows if row[3] == _checksum(*row[:3])]
        if len(intact) < len(rows):
            self._warn_of_damage(f"an encoding in {self.path} is damaged")
        if not intact:
            return {}
        found, lengths, embeds, _ = zip(*intact, strict=True)
        # One block for all: thousands of small ones would leave the memory full of holes.
        block = torch.frombuffer(bytearray().join(embeds), dtype=torch.bfloat16)
        return dict(zip(found, block.view(sum(lengths), -1).split(lengths), strict=True))

    def add(self, encodings: Mapping[bytes, Tensor]) -> None:
        """Write encodings, bfloat16 ``[n_i, d]``, by ``hash_of`` caption, before this returns.

        If that is impossible, a warning says so once, and no more is written.
        """
        if self.refused or self.size >= self.max_bytes:
            return
        try:
            disk = shutil.disk_usage(self.path.parent)
            if disk.free < min(LEFT_FREE, LEFT_FREE_SHARE * disk.total):
                raise OSError(errno.ENOSPC, "the disk is nearly full")
            with self._connected() as database, database:  # the second one commits
                for key, embeds in encodings.items():
                    content = embeds.contiguous().view(torch.int16).numpy().tobytes()
                    row = (key, len(embeds), content)
                    database.execute(REPLACE, (*row, _checksum(*row)))
        except OSError as error:
            self._refuse(error)
        except FAULTS as error:
            self._start_anew(error)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, PATIENCE, isolation_level="IMMEDIATE")
        try:
            database.text_factory = bytes  # damage may turn a blob into text, of any bytes
            database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            database.execute(TABLE)
            yield database
        finally:
            database.close()

    def _start_anew(self, error: sqlite3.Error | UnicodeDecodeError) -> bool:
        """Put a damaged database aside; return False, with a warning, if it has another fault."""
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF not in DAMAGE:
            return self._refuse(error)
        self._warn_of_damage(f"{self.path} is damaged ({error})")
        try:
            self.path.replace(self.path.with_suffix(".damaged"))
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as failure:
            return self._refuse(failure)
        return True

    def _refuse(self, error: Exception) -> Literal[False]:
        if self.refused is None:
            self.refused = str(cannot_write(self.path, error))
            log.warning("encodings are no longer kept: %s", self.refused)
        return False

    def _warn_of_damage(self, what: str) -> None:
        if not self._warned_of_damage:
            log.warning("%s; whatever is damaged is encoded again", what)
        self._warned_of_damage = True


def _checksum(key: bytes, tokens: object, embeds: object) -> int:
    """Return the CRC-32 of a row, whatever types damage has given to its values."""
    content = embeds if isinstance(embeds, bytes) else b""
    return zlib.crc32(content, zlib.crc32(b"%b %a" % (key, tokens)))
