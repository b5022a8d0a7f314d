"""Files and folders that are written whole or not at all, locks, JSON. Imports nothing heavy."""

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from minimagen.errors import UserError
from minimagen.storage.cache import is_cached

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_FOLDER_SYNC = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP)


def write_json(path: Path, values: Any, shared: bool = False) -> None:
    """Write ``values`` as JSON at ``path``, all of it or nothing; see ``replacing`` for shared.

    They may be a configuration, or hold some.
    """
    text = json.dumps(values, indent=2, default=methodcaller("model_dump", mode="json"))
    with replacing(path, shared) as part:
        part.write_text(text + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Return the parsed JSON of ``path``; a UserError names what is wrong with the file."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a UTF-8 text file.

    Only \n, \r\n and \r end a line; U+2028, vertical tabs and the like are white space in it.

    Raises:
        UserError: If it is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig").split("\n")  # reading has turned the other two into it
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """Yield where to write the file ``path``: what is there is put in its place at the end.

    If the block fails, the old file stays and nothing else is left. A ``shared`` file is one of a
    cache: several processes may write it at a time. The last one counts, and none waits for the
    disk.

    Raises:
        UserError: If it cannot be written (disk full, no permission).
    """
    own = f"{os.getpid()}.{secrets.token_hex(4)}."  # on another machine the number may be the same
    part = path.with_name(f"{path.name}.{own if shared else ''}part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        part.touch()
        mode = stat.S_IMODE(part.stat().st_mode)
        yield part
        part.chmod(mode)  # safetensors and others make files that only their owner may read
        if not shared:
            sync(part)
        part.replace(path)
        if not shared:
            sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            part.unlink()


def begin_folder(folder: Path) -> Path:
    """Return an empty folder beside ``folder``, to be filled before ``finish_folder``.

    Raises:
        UserError: If it cannot be made (disk full, no permission).
    """
    part, old = _beside(folder)
    try:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not folder.exists():  # killed between two renames of finish_folder
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return part


def finish_folder(folder: Path) -> None:
    """Put what ``begin_folder`` began in the place of ``folder``; an older one stays until then.

    Raises:
        UserError: If that fails: the older one stays, the new one is deleted.
    """
    part, old = _beside(folder)
    try:
        mode = stat.S_IMODE(part.stat().st_mode) & 0o666  # as of any new file here
        for path in part.iterdir():
            path.chmod(mode)
            sync(path)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise cannot_write(folder, error) from None


def _beside(folder: Path) -> tuple[Path, Path]:
    """Return where a folder is written, and where an older one of its name waits."""
    return folder.with_name(f"{folder.name}.part"), folder.with_name(f"{folder.name}.old")


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that no rename overtakes the contents.

    Windows has no such thing for folders, and some network file systems do not either.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not folder or error.errno not in NO_FOLDER_SYNC:
            raise


@contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[bool]:
    """Wait up to ``wait`` seconds for a lock on the file ``path``; it ends with the process.

    Yields False where another process has it. Where the file system has no locks, nothing is held,
    and it yields True.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


def cannot_write(path: Path, error: BaseException) -> UserError:
    """Return the error for a ``path`` that could not be written: the reason, and what to do."""
    reason: object = error
    space = "free some space or "  # safetensors gives no number
    if isinstance(error, OSError):
        reason = error.strerror or error
        space = space if error.errno in FULL else ""
    elsewhere = "set MINIMAGEN_CACHE to" if is_cached(path) else "choose"
    return UserError(
        f"cannot write {path}: {reason}; {space}{elsewhere} another folder "
        "(what was saved before is unharmed)"
    )
