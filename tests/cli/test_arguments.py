"""The last net under every command: no traceback where the system says no or the user stops."""

import ast
import errno
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minimagen.__main__ import main as minimagen
from minimagen.cli.running import run
from minimagen.errors import UserError

PACKAGE = Path(__file__).parents[2] / "minimagen"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (
            PermissionError(errno.EACCES, "Permission denied", "mine/metrics.jsonl"),
            "error: Permission denied: mine/metrics.jsonl",
        ),
        (OSError("two\nlines"), "error: two lines"),
        (OSError(), "error: OSError"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], error: OSError, line: str
) -> None:
    def main(argv: list[str]) -> int:
        raise error

    assert run(main, []) == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_parameter_in_back_quotes_is_printed_as_the_flag_that_sets_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main(argv: list[str]) -> int:
        raise UserError("batch_size 3: `batch_size`, `text_encoder_name`, `resume` or `nothing`")

    assert run(main, []) == 2
    printed = "error: batch_size 3: --BATCH_SIZE, --T5_NAME, --RESTART_DIRECTORY or nothing\n"
    assert capsys.readouterr().err == printed


def test_no_library_message_names_a_flag() -> None:
    """Flags are the command line's; the library names parameters, in back quotes."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.findall(r"--[A-Z0-9_]+\b(?!=)", node.value)
                assert not named or id(node) in docs, f"{path}: {named}"


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> int:
        raise KeyboardInterrupt

    assert run(main, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def main(argv: list[str]) -> int:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run(main, [])


@pytest.mark.parametrize("written_before", [0, 2])
def test_a_disk_that_fills_up_ends_an_export_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written_before: int,
) -> None:
    save, saved = Image.Image.save, []

    def until_full(image: Image.Image, path: Any, *rest: Any) -> None:
        if len(saved) == written_before:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(path)
        save(image, path, *rest)

    monkeypatch.setattr(Image.Image, "save", until_full)
    out = tmp_path / "out"
    assert minimagen(["data", "export", "shapes", str(out), "--COUNT", "4", "--SIZE", "16"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert f"cannot write {out}" in printed.err and "No space left on device" in printed.err


def test_an_export_below_a_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert minimagen(["data", "export", "shapes", str(tmp_path / "file" / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write") and error.count("\n") == 1
