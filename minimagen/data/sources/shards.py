"""Tar shards as img2dataset and WebDataset write them, here or behind any fsspec URL.

``00000.tar`` holds ``key.jpg``, ``key.txt``, ``key.json`` one after the other. Only images, txt
and json are read, everything else is passed over unread, and nothing is ever extracted.
"""

import itertools
import json
import logging
import posixpath
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import IO, Any, NamedTuple

from minimagen.config.data import CAPTION_COLUMN
from minimagen.data.dataset import BadSampleError, Row
from minimagen.data.images.absence import Absence
from minimagen.data.sources.listing import IMAGES, digest_of, is_system, printable, relative_names
from minimagen.data.sources.table import ALSO, captions_of
from minimagen.data.where import Where
from minimagen.draws import rng
from minimagen.errors import UserError, first_line

IMAGE_SUFFIXES = [suffix[1:] for suffix in IMAGES]
CAPTIONS = {"txt", "json"}
MEMBER_BYTES = 64 * 2**20  # the largest member that is read
BUFFER, BUFFER_BYTES = 1000, 256 * 2**20  # samples among which a reader shuffles
TRIES = 3  # to open or go on with a shard, with pauses of 1, 2, 4 ... seconds
PAUSE = 1.0
EMPTY = 10  # draws for each shard, none with a sample that fits: all were drawn
LOST_IN_A_ROW = 5  # shards; then the source is unavailable

# What reading a damaged tar or a connection that breaks raises.
BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error, ValueError)

log = logging.getLogger(__name__)

Found = Row | BadSampleError
Sample = dict[str, bytes | None]  # contents by suffix
Columns = dict[str, None]  # names of what a condition may be on, in order


class ShardLostError(Exception):
    """A shard that cannot be read to its end; the message says why."""


@dataclass(frozen=True)
class TarStream:
    """Rows of tar shards.

    The column "text" is key.txt, or else the text or caption of key.json; another one is in
    key.json. A list of captions means variants.
    """

    shards: tuple[str, ...]  # files or URLs
    column: str = CAPTION_COLUMN
    where: Where | None = None  # a condition on key.json

    @property
    def identity(self) -> str:
        """What changes when the names or contents of the shards do, and not with their folder."""
        condition = () if self.where is None else (self.where.text,)
        return digest_of(self.shards, self.column, *condition)

    @cached_property
    def _names(self) -> dict[str, str]:
        return dict(zip(self.shards, relative_names(self.shards), strict=True))

    def shuffled(self, seed: int, reader: int, readers: int) -> Iterator[Found]:
        """Yield rows without end from shards drawn again and again, shuffled in a buffer.

        Where several shards in a row cannot be read, but some could be before, the source is
        unavailable, and the run waits for it.
        """
        draws = rng(seed, "shards", reader, "of", readers)
        return _shuffled(self._drawn(draws), draws)

    def _drawn(self, draws: Random) -> Iterator[Found]:
        lost, empty, any_read, absence = 0, 0, False, Absence()
        columns, unread = Columns(), {*self.shards}
        while True:
            try:
                empty += 1
                shard = draws.choice(self.shards)
                for row in self._read(shard, columns):
                    yield row
                    empty = 0
                unread.discard(shard)
                if not unread:
                    self._check(columns)
                if empty > EMPTY * len(self.shards) and self.where is not None:
                    raise UserError(f"no sample of the shards fits `where` {self.where.text!r}")
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
        columns = Columns()
        for shard in self.shards:
            try:
                yield from self._read(shard, columns)
            except ShardLostError as error:
                yield BadSampleError(str(error))
        self._check(columns)

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of all rows once; none of a bad row."""
        return (row.captions if isinstance(row, Row) else () for row in self.once())

    def _read(self, shard: str, columns: Columns) -> Iterator[Found]:
        return read_shard(shard, self.column, self._names[shard], self.where, columns)

    def _check(self, columns: Columns) -> None:
        """Raise a UserError where a condition names what no sample of all shards has."""
        if self.where is not None and columns:
            self.where.check(list(columns))


def _shuffled(rows: Iterable[Found], draws: Random) -> Iterator[Found]:
    """Keep some rows back and draw which one comes next; reasons go ahead."""
    kept: list[Row] = []
    held = 0  # bytes
    for row in rows:
        if isinstance(row, BadSampleError):
            yield row
            continue
        kept.append(row)
        held += len(row.content)
        while len(kept) > BUFFER or held > BUFFER_BYTES:
            at = draws.randrange(len(kept))
            kept[at], kept[-1] = kept[-1], kept[at]
            chosen = kept.pop()
            held -= len(chosen.content)
            yield chosen


def read_shard(
    shard: str,
    column: str = CAPTION_COLUMN,
    name: str = "",
    where: Where | None = None,
    columns: Columns | None = None,
) -> Iterator[Found]:
    """Yield a shard's rows, named ``name/key``; after a broken connection, go on where it broke.

    ``columns`` gets what a condition may name.

    Raises:
        ShardLostError: it cannot be read to its end.
    """
    done = 0
    for attempt in range(1, TRIES + 1):
        try:
            with _opened(shard) as file:
                known = Columns() if columns is None else columns
                rows = _rows(file, printable(name or shard), column, where, known)
                for row in itertools.islice(rows, done, None):
                    yield row
                    done += 1
            return
        except _broken() as error:
            if attempt == TRIES or isinstance(error, FileNotFoundError | tarfile.TarError):
                reason = getattr(error, "strerror", None) or error or type(error).__name__
                raise ShardLostError(f"{printable(shard)}: {reason}") from error
            log.warning("%s: %s; trying again", printable(shard), error)
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
    def fromtarfile(cls, tar: tarfile.TarFile) -> "Member":
        """Read the next header."""
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.TarError(f"the shard is cut off or damaged: {error}") from error


class Part(NamedTuple):
    """A member that is read: ``a.seg.png`` belongs to ``a`` or is an image of its own."""

    group: str  # its name up to the first dot, as WebDataset divides
    sample: str  # up to the last dot
    suffix: str
    content: bytes | None  # None: larger than is read


def _rows(
    file: IO[bytes], shard: str, column: str, where: Where | None, columns: Columns
) -> Iterator[Found]:
    """Yield the rows of an open tar, or the reason why there is none."""
    count, others = 0, Counter[str]()
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=Member) as tar:
        for group, parts in itertools.groupby(_parts(tar, others), key=attrgetter("group")):
            for name, sample in _samples(group, parts):
                found = _row(f"{shard}/{printable(name)}", sample, column)
                if found is None:
                    continue
                count += 1
                if where is not None and isinstance(found, Row):
                    found = _fitting(sample, found, where, columns)
                if found is not None:
                    yield found
    if not count:
        kinds = ", ".join(f"{n} {kind or 'other'} files" for kind, n in others.most_common(3))
        yield BadSampleError(f"{shard}: no image in it{kinds and f', only {kinds}'}")


def _fitting(sample: Sample, row: Row, where: Where, columns: Columns) -> Found | None:
    """Return a row that fits the condition, or why that is not known; note which columns it has."""
    try:
        values = _json(sample) | {"text": " ".join(row.captions)}
    except (ValueError, RecursionError) as error:
        return BadSampleError(f"{row.name}: {first_line(error)}")
    columns |= dict.fromkeys(values)
    return row if where.kept([values], [row.image])[0] else None


def _samples(group: str, parts: Iterable[Part]) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of neighboring members whose names are the same up to the first dot.

    ``a.png`` and ``a.txt`` are a sample. So are ``a.1.png`` and ``a.1.txt``; but ``a.1.png``
    without a caption is passed over where there is an ``a.png``: it is a mask, or the like.
    """
    plain: Sample = {}
    others: list[tuple[str, Sample]] = []
    for name, some in itertools.groupby(parts, key=attrgetter("sample")):
        sample = plain if name == group else Sample()
        for part in some:
            sample.setdefault(part.suffix, part.content)
        if name != group and sample.keys() & CAPTIONS:
            yield name, sample
        elif name != group:
            others.append((name, dict.fromkeys(sample, b"")))
    if plain.keys().isdisjoint(IMAGE_SUFFIXES):
        yield from others
    else:
        yield group, plain


def _parts(tar: tarfile.TarFile, others: Counter[str]) -> Iterator[Part]:
    """Yield the plain members of the kinds that are read, count the others."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile remembers every member it has met
        if not member.isreg() or any(map(is_system, member.name.split("/"))):
            continue
        sample, suffix = posixpath.splitext(member.name)
        folder, slash, file = sample.rpartition("/")
        group, suffix = folder + slash + file.partition(".")[0], suffix[1:].lower()
        if suffix in CAPTIONS or suffix in IMAGE_SUFFIXES:
            content = tar.extractfile(member) if member.size <= MEMBER_BYTES else None
            yield Part(group, sample, suffix, content.read() if content is not None else None)
        if suffix not in IMAGE_SUFFIXES:
            others[suffix] += 1


def _row(name: str, sample: Sample, column: str) -> Found | None:
    """Return a sample's row, None for a group without any image (a shard's own statistics)."""
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in sample), None)
    if suffix is None:
        return None
    image = sample[suffix]
    if image is None:
        return BadSampleError(f"{name}: larger than {MEMBER_BYTES >> 20} MiB")
    try:
        captions = _captions(sample, column)
    except (ValueError, RecursionError) as error:
        return BadSampleError(f"{name}: {error}")
    if not captions:
        return BadSampleError(
            f"{name}: no caption; the files of a sample must be neighbors in the shard "
            "(tar --sort=name)"
        )
    return Row(image, captions, name)


def _captions(sample: Sample, column: str) -> tuple[str, ...]:
    """Return the captions of key.txt or key.json; ValueError if they are not text."""
    text = sample.get("txt")
    if column == CAPTION_COLUMN and text is not None:
        return captions_of(text.decode("utf-8-sig")) or ()
    values = _json(sample)
    names = (column, *ALSO) if column == CAPTION_COLUMN else (column,)
    value = next((values[name] for name in names if values.get(name)), None)
    captions = captions_of(value)
    if captions is None:
        raise ValueError(f"the json's {column!r} is neither text nor a list of texts")
    for caption in captions:
        caption.encode()  # half of a surrogate pair is a ValueError
    return captions


def _json(sample: Sample) -> dict[str, Any]:
    """Return what key.json holds; ValueError if it is no object."""
    values = json.loads(sample.get("json") or b"{}")
    if not isinstance(values, dict):
        raise ValueError("the json is no object")
    return values
