"""A URL table becomes tar shards here: once, in parallel, before any training.

Rows 0 to 999 make shard 0, and so on. A shard appears when it is complete, so an interrupted
download goes on with the first one that is not there.
"""

import io
import itertools
import json
import logging
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from minimagen.config.data import CAPTION_COLUMN
from minimagen.data.download.fetch import FetchError, Limits, fetch_image
from minimagen.data.download.url_table import UrlRow, fingerprint, url_rows
from minimagen.data.images.decoding import open_image
from minimagen.errors import UserError
from minimagen.storage.files import read_json, replacing, write_json

SHARD_ROWS = 1000
THREADS = 32

log = logging.getLogger(__name__)

Result = bytes | str  # the image file, or why there is none


class Downloaded(NamedTuple):
    """What a download came to."""

    folder: Path
    shards: list[str]
    good: int
    failed: Counter[str]


def download(
    table: Path,
    out: Path,
    column: str = CAPTION_COLUMN,
    limits: Limits | None = None,
    threads: int = THREADS,
) -> Downloaded:
    """Fetch every image of a table into tar shards in ``out``, or those that are not there yet.

    Args:
        table: has the columns url (or image_url) and ``column``, the captions.
        out: an empty folder, or one with shards of this table.
        column: of the captions.
        limits: what one image may cost.
        threads: images that are fetched at once.

    Raises:
        UserError: the table cannot be read, ``out`` holds another one's images or cannot be
            written, or no URL of a whole shard gives an image.
    """
    _claim(out, table, column)
    rows, shards, failed, good = url_rows(table, column), [], Counter[str](), 0
    for number in itertools.count():
        some = list(itertools.islice(rows, SHARD_ROWS))
        if not some:
            break
        shard, stats = out / f"{number:05d}.tar", out / f"{number:05d}_stats.json"
        if not shard.is_file() and not _is_dead(stats):
            whole = len(some) == SHARD_ROWS or not good
            _make_shard(shard, stats, some, limits or Limits(), threads, whole)
        found = read_json(stats)
        good += found["good"]
        failed.update(found["failed"])
        if found["good"]:
            shards.append(str(shard))
    if not good:
        reason = next(iter(failed), "the table is empty")
        raise UserError(f"no URL of {table} gives an image: {reason}")
    return Downloaded(out, shards, good, failed)


def _claim(out: Path, table: Path, column: str) -> None:
    """Note which table the folder is for."""
    mark, ours = out / "table.json", {"table": fingerprint(table), "caption_column": column}
    if mark.is_file():
        if read_json(mark) != ours:
            raise UserError(f"{out} holds the images of another table: give another folder")
        return
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not an empty folder: give a new one, nothing was written")
    write_json(mark, ours)


def _is_dead(stats: Path) -> bool:
    """Return whether these rows were fetched, and gave no image."""
    return stats.is_file() and not read_json(stats)["good"]


def _make_shard(
    shard: Path, stats: Path, rows: Sequence[UrlRow], limits: Limits, threads: int, whole: bool
) -> None:
    """Fetch some rows; write their statistics, then their images, if there are any.

    Raises:
        UserError: No row gives an image, and they are a ``whole`` shard, not a short last one.
    """
    started = time.monotonic()
    results = _fetch_all(rows, limits, threads)
    failed = Counter(result for result in results if isinstance(result, str))
    good = len(rows) - failed.total()
    speed = len(rows) / max(time.monotonic() - started, 1e-9)
    log.warning("%s: %d of %d images, %.0f/s", shard.name, good, len(rows), speed)
    if not good and whole:
        raise UserError(
            f"none of {len(rows)} URLs from {rows[0].url!r} on gives an image: "
            f"{failed.most_common(1)[0][0]}"
        )
    lost = [[r.url, why] for r, why in zip(rows, results, strict=True) if isinstance(why, str)]
    write_json(stats, {"rows": len(rows), "good": good, "failed": dict(failed), "urls": lost})
    if good:
        _write_tar(shard, rows, results)


def _fetch_all(rows: Sequence[UrlRow], limits: Limits, threads: int) -> list[Result]:
    def fetch(row: UrlRow) -> Result:
        if not row.captions:
            return "no caption"
        try:
            return fetch_image(row.url, limits)
        except FetchError as error:
            return str(error)

    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(fetch, rows))
    finally:  # after Ctrl-C too: what has not begun is not begun
        pool.shutdown(wait=True, cancel_futures=True)


def _write_tar(shard: Path, rows: Sequence[UrlRow], results: Sequence[Result]) -> None:
    with replacing(shard, shared=True) as part, tarfile.open(part, "w") as tar:
        for number, (row, result) in enumerate(zip(rows, results, strict=True)):
            if isinstance(result, bytes):
                for name, content in _members(f"{shard.stem}{number:04d}", row, result):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def _members(key: str, row: UrlRow, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a sample's members as img2dataset names them."""
    with open_image(content) as image:
        suffix = (image.format or "").lower()
    yield f"{key}.{suffix}", content
    yield f"{key}.json", json.dumps({"url": row.url, "text": list(row.captions)}).encode()
    if len(row.captions) == 1:
        yield f"{key}.txt", row.captions[0].encode()
