"""The tools that measure the package: what they count."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tools import measure_package, trace_caption

ROOT = Path(__file__).parents[1]
FIRST = np.array([0.5, -1.0, 2.0, 0.25], dtype=np.float32)
MOST_FILES = 26  # that a caption passes through


@dataclass
class Held:
    content: object


class Owner:
    def __init__(self, content: object) -> None:
        self.content = content


@pytest.fixture
def trace(tmp_path: Path) -> trace_caption.Trace:
    return trace_caption.Trace(ROOT, tmp_path, [7, 8, 1], FIRST)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (f'{{"text": "{trace_caption.CAPTION}"}}', "text"),
        (trace_caption.CAPTION.encode(), "text"),
        ([[7, 8, 1], [2, 1]], "tokens"),
        (torch.tensor([[3, 1, 0, 0], [7, 8, 1, 0]]), "tokens"),
        (torch.from_numpy(np.stack([FIRST + 9, FIRST])).bfloat16()[None], "encoding"),
    ],
)
def test_a_caption_is_recognized_in_every_form(trace: trace_caption.Trace, value, form) -> None:
    assert set(trace._forms(value, trace_caption.DEPTH)) == {form}
    assert set(trace._forms([Held(value)], 4)) == {form}


def test_the_flag_is_the_folder_itself(trace: trace_caption.Trace, tmp_path: Path) -> None:
    assert set(trace._forms([tmp_path], 4)) == set(trace._forms(str(tmp_path), 4)) == {"flag"}
    assert not set(trace._forms(tmp_path / "0.png", 4))


def test_nothing_else_is_taken_for_the_caption(trace: trace_caption.Trace) -> None:
    owner = Owner(trace_caption.CAPTION)  # an object that could look it up does not hold it
    for other in ("a brass teapot", [8, 7, 1], torch.zeros(2, 4), torch.tensor(1.0), None, owner):
        assert not set(trace._forms(Held(other), 4))


@pytest.mark.slow
def test_a_caption_passes_through_few_files() -> None:
    tool = [sys.executable, "tools/trace_caption.py"]
    done = subprocess.run(tool, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, count = done.stdout.splitlines()
    files = [line.split()[0] for line in lines]
    assert {trace_caption.ARRIVAL, trace_caption.END, "minimagen/cli/train.py"} <= set(files)
    assert count == f"{len(files)} files" and len(files) <= MOST_FILES


def test_lines_are_counted_by_part(tmp_path: Path) -> None:
    contents = {"imagen.py": 3, "diffusion/loss.py": 5, "data/open.py": 6, "data/download/x.py": 2}
    for name, count in contents.items():
        path = tmp_path / "minimagen" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#\n" * count, "utf-8")
    files = measure_package.lines(tmp_path)
    assert files == contents
    lines = measure_package.report(files).splitlines()
    table = {line.split("  ")[-1]: line.split()[:2] for line in lines}
    assert table["total"] == ["16", "100.0%"]
    assert table["method: diffusion, imagen.py"] == ["8", "50.0%"]
    assert table["data"] == ["8", "50.0%"]
    assert table["data without data/download"] == ["6", "37.5%"]
