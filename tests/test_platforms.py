"""The commands on platforms that differ from this one: file systems and consoles."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from minimagen.cli import train
from tests.conftest import ONE_CAPTION
from tests.platforms import behave_as_windows

ROOT = Path(__file__).parents[1]
QUICK = ["--TESTING", "--DEVICE", "cpu", "--CHCKPT_NUM", "1", *ONE_CAPTION]


@pytest.mark.usefixtures("one_thread")
def test_training_and_resuming_where_windows_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    behave_as_windows(monkeypatch)
    assert train.entry([*QUICK, "--STEPS", "1"]) == 0
    run = str(next(tmp_path.glob("training_*")))
    assert train.entry(["-rd", run, "--IN_PLACE", "--STEPS", "2", "--DEVICE", "cpu"]) == 0
    assert len(list(tmp_path.glob("*/tmp/unet_1_step_*"))) == 2
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".part", ".old")]


def _run(folder: Path, arguments: Sequence[str | bytes], encoding: str) -> tuple[int, str]:
    """Return the exit code and all that a command prints on a console of this encoding."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "minimagen", *arguments]
    ran = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return ran.returncode, ran.stdout.decode(encoding)  # strict: what is printed is valid


@pytest.mark.parametrize(
    ("encoding", "star"), [("cp1252", r"\U0001f31f"), ("ascii", r"\U0001f31f"), ("utf-8", "🌟")]
)
def test_names_and_captions_are_printed_on_every_console(
    tmp_path: Path, encoding: str, star: str
) -> None:
    for name in ("🌟".encode(), b"not utf-8 \xff", "中".encode()):
        place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".png"))
        place.write_bytes(b"no image")
        place.with_suffix(".txt").write_text("a star", "utf-8")
    code, printed = _run(tmp_path, ["data", "check", "."], encoding)
    assert code in (1, 2) and "Traceback" not in printed and f"{star}.png" in printed
    code, printed = _run(tmp_path, ["train", "--DATASET", "🌟".encode() + b"\xff"], encoding)
    assert code == 2 and star in printed and printed.count("\n") == 1


def test_a_reader_that_ends_early_ends_the_command_quietly(tmp_path: Path) -> None:
    for arguments in (["--help"], ["train", "--PRINT_CONFIG"]):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "minimagen", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE
        )
        os.close(writing)
        assert (ran.returncode, ran.stderr) == (141, b"")


NOTEBOOK = """
import sys, types
kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: kernel, version_info=(9, 0))
sys.modules["ipywidgets"] = None
from minimagen.progress import tqdm
print(sum(tqdm([1, 2, 3], file=sys.stdout)))
"""


def test_a_notebook_without_widgets_has_the_terminals_bar_and_no_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", NOTEBOOK]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
    assert ran.stdout.endswith("6\n") and "3/3" in ran.stdout


def test_the_script_of_the_readme_does_nothing_in_a_spawned_worker(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    scripts = [block for block in blocks if "train(" in block]
    assert scripts
    for script in scripts:
        names = {"__name__": "__mp_main__"}
        exec(script, names)
        assert "imagen" not in names
