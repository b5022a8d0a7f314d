"""Files that are written whole or not at all, and JSON. Imports nothing heavy."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from minimagen.errors import UserError


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` as JSON at ``path``, all of it or nothing."""
    replace(path, lambda part: part.write_text(json.dumps(values, indent=2) + "\n", "utf-8"))


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


def sync(path: Path) -> None:
    """Wait until ``path`` is on the disk, so that a rename cannot overtake the contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it there; on failure nothing changes.

    Raises:
        UserError: If it cannot be written (disk full, no permission).
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        sync(part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            part.unlink()


def cannot_write(path: Path, error: BaseException) -> UserError:
    """Return the error that says that ``path`` could not be written, and why."""
    return UserError(
        f"cannot write {path}: {error}; free some space or choose another --OUTPUT "
        "(what was saved before is unharmed)"
    )
