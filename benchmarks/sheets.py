"""Sheets beside the rows: their names, and that none of them costs a row."""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from minimagen.errors import UserError

LONGEST_NAME = 100  # file systems have 255 bytes


def file_name(parts: Iterable[str]) -> str:
    """Return a name for what is written of a case, short enough for any file system."""
    name = re.sub(r"[^\w.-]+", "_", "_".join(parts))
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}_{digest}"


@contextmanager
def costing_no_row() -> Iterator[None]:
    """Print why a sheet cannot be written, instead of losing a long training's row."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"no sheet: {error}", file=sys.stderr)
