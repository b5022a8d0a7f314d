"""Tar shards as img2dataset and WebDataset write them, here or behind any fsspec URL.

``00000.tar`` holds ``key.jpg``, ``key.txt``, ``key.json`` one after the other. Only pictures, txt
and json are read, everything else is passed over unread, and nothing is ever extracted.
"""

import glob
import hashlib
import itertools
import json
import logging
import re
import sys
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tarfile import TarError
from typing import IO, Any, NamedTuple

from minimagen.data.dataset import BadSampleError, Row
from minimagen.data.images.absence import Absence
from minimagen.data.images.decoding import Framing
from minimagen.data.images.stream import ImageStream
from minimagen.data.sources.captions import ALSO, DEFAULT, captions_of
from minimagen.errors import UserError

PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif")
MEMBERS = (*PICTURES, "txt", "json")
MEMBER_BYTES = 64 * 2**20  # a larger member is none that anybody trains on
BUFFER, BUFFER_BYTES = 1000, 256 * 2**20  # samples among which a reader shuffles
TRIES = 3  # to open or go on with a shard, with pauses of 1, 2, 4 ... seconds
PAUSE = 1.0
LOST_IN_A_ROW = 5  # shards; then the source is away

# Where a member's header has what.
NAME, SIZE, CHECKSUM, PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), slice(345, 500)
PADDING = b" \0"  # of the header's numbers

# What reading a damaged tar or a connection that breaks raises.
DAMAGED_HEADERS: tuple[type[Exception], ...] = (
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
)
BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error, ValueError)

log = logging.getLogger(__name__)

Found = Row | BadSampleError


class ShardLostError(Exception):
    """A shard that cannot be read to its end; the message says why."""


@dataclass(frozen=True)
class TarStream:
    """Rows of tar shards."""

    shards: tuple[str, ...]
    column: str = DEFAULT

    @property
    def identity(self) -> str:
        """Return the names of the shards, without their folder."""
        names = [shard.rpartition("/")[2] for shard in self.shards]
        digest = hashlib.blake2b(repr((names, self.column)).encode(), digest_size=8)
        return f"{len(names)} shards, names {digest.hexdigest()}"

    def shuffled(self, seed: int, reader: int, readers: int) -> Iterator[Found]:
        """Yield rows without end from shards drawn again and again, shuffled in a buffer.

        Where several shards in a row cannot be read, but some could be before, the source is away,
        and the run waits for it.

        Raises:
            UserError: no shard can be read, or the source did not come back.
        """
        rng = Random(f"{seed} shards {reader} of {readers}")
        return _shuffled(self._drawn(rng), rng)

    def _drawn(self, rng: Random) -> Iterator[Found]:
        """Yield rows of shards drawn again and again."""
        lost, any_read, absence = 0, False, Absence()
        while True:
            try:
                yield from read_shard(rng.choice(self.shards), self.column)
                lost, any_read = 0, True
                absence.over()
            except ShardLostError as error:
                lost += 1
                if lost < LOST_IN_A_ROW:
                    yield BadSampleError(str(error))
                elif any_read:
                    absence.wait(str(error))
                else:
                    raise UserError(f"{lost} shards in a row cannot be read: {error}") from None

    def once(self) -> Iterator[Found]:
        """Yield every row once, shard by shard."""
        for shard in self.shards:
            try:
                yield from read_shard(shard, self.column)
            except ShardLostError as error:
                yield BadSampleError(str(error))

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Go through the captions of all rows once; none of a bad row."""
        return (row.captions if isinstance(row, Row) else () for row in self.once())


def _shuffled(rows: Iterable[Found], rng: Random) -> Iterator[Found]:
    """Keep some rows back and let chance say which comes next."""
    kept: list[Found] = []
    held = 0
    for row in rows:
        kept.append(row)
        held += _bytes_of(row)
        while len(kept) > BUFFER or held > BUFFER_BYTES:
            at = rng.randrange(len(kept))
            kept[at], kept[-1] = kept[-1], kept[at]
            chosen = kept.pop()
            held -= _bytes_of(chosen)
            yield chosen


def _bytes_of(row: Found) -> int:
    return len(row.image) if isinstance(row, Row) and isinstance(row.image, bytes) else 0


def load_shards(
    shards: Sequence[str],
    framing: Framing,
    column: str = DEFAULT,
    validation: Sequence[str] = (),
) -> ImageStream:
    """Open tar shards.

    Args:
        shards: files or fsspec URLs; ``{000..123}`` stands for many, and so does ``*``.
        framing: size, crop and flip of the samples.
        column: "text" reads key.txt, or else the text or caption of key.json; another name reads
            that one of key.json. A list is variants.
        validation: shards of the validation set.

    Raises:
        UserError: there are none, or a name would start a program.
    """
    found = TarStream(expand(shards), column)
    held_out = validation and TarStream(expand(validation), column)
    rest = ImageStream(held_out, framing) if held_out else None
    return ImageStream(found, framing, rest)


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Return every shard that ``names`` mean.

    Raises:
        UserError: there are none, or a name would start a program.
    """
    import fsspec

    for name in names:
        if name.startswith("pipe:") or "::pipe:" in name:
            raise UserError(f"{name!r} would start a program: give files or URLs of tar shards")
    ranges = list(itertools.chain.from_iterable(map(_numbered, names)))
    shards: list[str] = []
    for name in ranges:
        if "*" not in name:
            shards.append(name)
            continue
        if "://" not in name:
            shards += sorted(glob.glob(name))
            continue
        try:
            shards += sorted(file.full_name for file in fsspec.open_files(name))
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{name!r} cannot be listed: {error}") from error
    if not shards:
        raise UserError(f"no tar shards at {' '.join(names)}")
    return tuple(shards)


def _numbered(name: str) -> Iterator[str]:
    """Replace the first ``{000..123}`` by each of its numbers, then the next one."""
    match = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", name)
    if match is None:
        yield name
        return
    first, last = int(match[1]), int(match[2])
    for number in range(first, last + 1):
        text = str(number).zfill(len(match[1]))
        yield from _numbered(name[: match.start()] + text + name[match.end() :])


def read_shard(shard: str, column: str = DEFAULT) -> Iterator[Found]:
    """Yield a shard's rows, named ``shard/key``; after a broken connection, go on where it broke.

    Raises:
        ShardLostError: it cannot be read to its end.
    """
    done = 0
    for attempt in range(1, TRIES + 1):
        try:
            with _opened(shard) as file:
                for row in itertools.islice(_rows(file, shard, column), done, None):
                    yield row
                    done += 1
            return
        except _broken() as error:
            if attempt == TRIES or isinstance(error, FileNotFoundError | tarfile.TarError):
                raise ShardLostError(f"{shard}: {error or type(error).__name__}") from error
            log.warning("%s: %s; trying again", shard, error)
            time.sleep(PAUSE * 2 ** (attempt - 1))


def _broken() -> tuple[type[Exception], ...]:
    aiohttp = sys.modules.get("aiohttp")  # reads http for fsspec; its failures are no OSError
    return BROKEN if aiohttp is None else (*BROKEN, aiohttp.ClientError)


def _opened(shard: str) -> Any:
    if "://" not in shard:
        return Path(shard).open("rb")
    import fsspec

    try:
        return fsspec.open(shard, "rb")
    except (ImportError, ValueError) as error:  # a protocol that is unknown or not installed
        raise UserError(f"{shard} cannot be read: {error}") from error


class Member(tarfile.TarInfo):
    """A header whose damage is an error; tarfile takes it for the end of the shard."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Member":
        """Read the header of a plain file without owners, rights and dates: three times as fast.

        Whatever is not plain, tarfile itself reads.
        """
        try:
            checksum, size = (
                int(buf[148:156].strip(PADDING), 8),
                int(buf[124:136].strip(PADDING), 8),
            )
            name, prefix = (_text(buf[at], encoding, errors) for at in (NAME, PREFIX))
        except ValueError:
            return super().frombuf(buf, encoding, errors)
        whole = checksum == sum(buf) - sum(buf[CHECKSUM]) + 8 * ord(" ")
        if buf[156:157] not in (tarfile.REGTYPE, tarfile.AREGTYPE) or name[-1:] == "/" or not whole:
            return super().frombuf(buf, encoding, errors)
        member = cls(f"{prefix}/{name}" if prefix else name)
        member.size = size
        return member

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> "Member":
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile)
        except DAMAGED_HEADERS as error:
            raise TarError(f"the shard is cut off or damaged: {error}") from error


def _text(field: bytes | bytearray, encoding: str, errors: str) -> str:
    return field.partition(b"\0")[0].decode(encoding, errors)


class Key(NamedTuple):
    """What the members of one sample share, and the end that tells them apart."""

    base: str
    suffix: str


def _key(name: str) -> Key:
    """Divide a member's name at the first dot of its last part, as WebDataset does."""
    name = name.encode("utf-8", "replace").decode()  # tarfile lets bytes that are no text through
    folder, slash, file = name.rpartition("/")
    base, _, suffix = file.partition(".")
    return Key(folder + slash + base, suffix.lower())


def _rows(file: IO[bytes], shard: str, column: str) -> Iterator[Found]:
    """Yield the rows of an open tar."""
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=Member) as tar:
        for base, group in itertools.groupby(_members(tar), key=lambda member: member[0].base):
            parts: dict[str, bytes | None] = {}
            for key, content in group:
                parts.setdefault(key.suffix, content)
            found = _row(f"{shard}/{base}", parts, column)
            if found is not None:
                yield found


def _members(tar: tarfile.TarFile) -> Iterator[tuple[Key, bytes | None]]:
    """Yield the plain members of the kinds that are read; None for one that is too large."""
    while (member := tar.next()) is not None:
        key = _key(member.name)
        if member.isreg() and key.suffix in MEMBERS:
            content = tar.extractfile(member) if member.size <= MEMBER_BYTES else None
            yield key, content.read() if content is not None else None
        tar.members = []  # type: ignore[attr-defined]  # tarfile remembers every member it has met


def _row(name: str, parts: dict[str, bytes | None], column: str) -> Found | None:
    """Return a sample's row, None for a group without any picture (a shard's own statistics)."""
    suffix = next((suffix for suffix in PICTURES if suffix in parts), None)
    if suffix is None:
        return None
    picture = parts[suffix]
    if picture is None:
        return BadSampleError(f"{name}: larger than {MEMBER_BYTES >> 20} MiB")
    try:
        captions = _captions(parts, column)
    except (ValueError, RecursionError) as error:
        return BadSampleError(f"{name}: {error}")
    if not captions:
        return BadSampleError(f"{name}: no caption")
    return Row(picture, captions, name)


def _captions(parts: dict[str, bytes | None], column: str) -> tuple[str, ...]:
    """Return the captions of key.txt or key.json; ValueError if they are not text."""
    text = parts.get("txt")
    if column == DEFAULT and text is not None:
        return captions_of(text.decode("utf-8-sig")) or ()
    told = json.loads(parts.get("json") or b"{}")
    if not isinstance(told, dict):
        raise ValueError("the json is no object")
    names = (column, *ALSO) if column == DEFAULT else (column,)
    value = next((told[name] for name in names if told.get(name)), None)
    captions = captions_of(value)
    if captions is None:
        raise ValueError(f"the json's {column!r} is neither text nor a list of texts")
    for caption in captions:
        caption.encode()  # half of a surrogate pair is a ValueError
    return captions
