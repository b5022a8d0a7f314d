"""Where things are kept that can be made again."""

import os
from pathlib import Path

from minimagen.errors import UserError


def cache_folder(kind: str) -> Path:
    """Return an existing folder for one kind of thing.

    It is in ``$MINIMAGEN_CACHE``, or ``minimagen`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``.

    Raises:
        UserError: it cannot be made.
    """
    folder = _base() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {str(folder)!r} ({error.strerror}): set MINIMAGEN_CACHE "
            "to a folder that you can write"
        ) from error
    return folder


def is_cached(path: Path) -> bool:
    """Return whether ``path`` is in one of these folders."""
    return path.absolute().is_relative_to(_base().absolute())


def _base() -> Path:
    base = os.environ.get("MINIMAGEN_CACHE")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "minimagen")
    return Path(base).expanduser()
