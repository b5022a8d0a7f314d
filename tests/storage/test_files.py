"""Files and folders appear whole, with the modes of any other file, also where Windows differs."""

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from minimagen.errors import UserError
from minimagen.storage import files
from minimagen.storage.cache import cache_folder
from minimagen.storage.checkpoint import save_checkpoint, save_weights
from minimagen.storage.files import cannot_write, locked, read_json, replacing, write_json
from minimagen.storage.metadata import save_png
from tests.checkpoints import load_checkpoint
from tests.platforms import behave_as_windows


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("a bug")])
def test_a_file_stays_as_it_was_where_its_successor_fails(
    tmp_path: Path, shared: bool, error: Exception
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    raised = UserError if isinstance(error, OSError) else ValueError
    with pytest.raises(raised), replacing(path, shared) as part:
        part.write_text("half of the n")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with replacing(path, shared) as part:
        part.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_processes_that_write_one_file_at_once_leave_one_of_theirs(tmp_path: Path) -> None:
    with replacing(tmp_path / "list", shared=True) as part:
        part.write_text("mine")
        write = (
            "import sys; from pathlib import Path; from minimagen.storage.files import replacing\n"
            "with replacing(Path(sys.argv[1]), shared=True) as part: part.write_text('theirs')"
        )
        subprocess.run([sys.executable, "-c", write, str(tmp_path / "list")], check=True)
        assert (tmp_path / "list").read_text() == "theirs"
    assert (tmp_path / "list").read_text() == "mine" and os.listdir(tmp_path) == ["list"]


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_is_written_may_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int) -> None:
    out = tmp_path / "out"
    write_json(out / "values.json", {})
    save_weights(out / "weights" / "a.safetensors", {"a": torch.ones(2)}, {})
    save_checkpoint(out / "checkpoint", {"a": torch.ones(2)}, {"step": 1})
    save_png(out / "image.png", Image.new("RGB", (2, 2)))
    paths = [out, *out.rglob("*")]
    assert len(paths) == 9
    for path in paths:
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_everything_is_written_where_windows_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave_as_windows(monkeypatch)
    for step in (1, 2):
        write_json(tmp_path / "values.json", step)
        save_weights(tmp_path / "a.safetensors", {"a": torch.ones(step)}, {})
        save_checkpoint(tmp_path / "checkpoint", {"a": torch.ones(step)}, {"step": step})
    assert read_json(tmp_path / "values.json") == 2
    assert load_checkpoint(tmp_path / "checkpoint").state == {"step": 2}
    assert len(os.listdir(tmp_path)) == 3


def test_a_disk_that_fails_is_still_reported_where_folders_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(UserError, match="Input/output error"):
        write_json(tmp_path / "values.json", {})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("number", "space"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False), (errno.EBADF, False)],
)
def test_the_advice_fits_the_reason(tmp_path: Path, number: int, space: bool) -> None:
    error = OSError(number, os.strerror(number), "some.part")
    for path in (tmp_path / "a.json", cache_folder("lists") / "a.json"):
        text = str(cannot_write(path, error))
        assert f"cannot write {path}: {os.strerror(number)}; " in text and "\n" not in text
        assert ("free some space" in text) == space and "another folder" in text
        assert ("MINIMAGEN_CACHE" in text) == (path.parent != tmp_path)


def test_content_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a name must not stand for an empty file."""
    order: list[str] = []
    monkeypatch.setattr(files, "sync", lambda path: order.append(path.name))
    replace = Path.replace

    def replaced(self: Path, target: Path) -> Path:
        order.append("replace")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    write_json(tmp_path / "a.json", {})
    assert order == ["a.json.part", "replace", tmp_path.name]


HOLD = """
import sys, time
from pathlib import Path
from minimagen.storage.files import locked
with locked(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("without", ["nothing", "fcntl"])
def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path, without: str) -> None:
    path = tmp_path / "lock"
    script = f"import sys; sys.modules[{without!r}] = None\n{HOLD}"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        if without == "nothing":
            began = time.monotonic()
            with locked(path, wait=0.2) as held:
                assert not held and time.monotonic() - began >= 0.2
        holder.kill()
    if without == "nothing":
        with locked(path) as held:
            assert held


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks"), NotImplementedError()])
def test_where_there_are_no_locks_a_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("filelock.FileLock.acquire", Mock(side_effect=error))
    with locked(tmp_path / "lock") as held:
        assert held
