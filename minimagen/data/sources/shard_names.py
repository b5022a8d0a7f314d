"""Which tar shards a name means: one, a range of numbers, or a pattern."""

import glob
import re
from collections.abc import Iterator

from minimagen.errors import UserError


def expand(name: str) -> tuple[str, ...]:
    """Return every shard that a name means: ``{000..123}`` stands for many, and so does ``*``."""
    import fsspec

    if name.startswith("pipe:") or "::pipe:" in name:
        raise UserError(f"{name!r} would start a program: give files or URLs of tar shards")
    shards: list[str] = []
    for each in _numbered(name):
        if "*" not in each:
            shards.append(each)
        elif "://" not in each:
            shards += sorted(glob.glob(each))
        else:
            try:
                shards += sorted(file.full_name for file in fsspec.open_files(each))
            except (OSError, ValueError, ImportError) as error:
                raise UserError(f"{each!r} cannot be listed: {error}") from error
    if not shards:
        raise UserError(f"no tar shards at {name}")
    return tuple(shards)


def _numbered(name: str) -> Iterator[str]:
    """Replace the first ``{000..123}`` by each of its numbers, then the next one."""
    match = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", name)
    if match is None:
        yield name
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        text = str(number).zfill(len(match[1]))
        yield from _numbered(name[: match.start()] + text + name[match.end() :])
