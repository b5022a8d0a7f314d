"""What Windows does otherwise, as far as it can be had here."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def behave_as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open no folders, sync no file that is open for reading, rename onto nothing that exists."""
    open_, fsync, rename, replace = os.open, os.fsync, os.rename, os.replace
    writable: dict[int, bool] = {}

    def open_file(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        descriptor = open_(path, flags, *rest, **options)
        writable[descriptor] = bool(flags & (os.O_RDWR | os.O_WRONLY))
        return descriptor

    def sync(descriptor: int) -> None:
        if not writable.get(descriptor, True):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fsync(descriptor)

    def rename_to_nothing(source: Any, target: Any, **options: Any) -> None:
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        rename(source, target, **options)

    def replace_files(source: Any, target: Any, **options: Any) -> None:
        if Path(target).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        replace(source, target, **options)

    monkeypatch.setattr("shutil._use_fd_functions", False)  # there it deletes by path
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename_to_nothing)
    monkeypatch.setattr(os, "replace", replace_files)
