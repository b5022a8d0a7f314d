"""environment.json: sessions in order, and nothing of whoever started them."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import minimagen
from minimagen.storage.environment import add_session, command_line, session


def test_each_session_is_added_after_those_before(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    for world in (1, 4):
        add_session(path, session("cpu", "fp32", world))
    sessions = json.loads(path.read_text())["sessions"]
    assert [each["world_size"] for each in sessions] == [1, 4]
    assert sessions[0]["minimagen"] == minimagen.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", sessions[0]["torch"])
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", sessions[0]["commit"] or "0" * 40)


def test_jobs_that_begin_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    path, own = tmp_path / "environment.json", [session("cpu", "fp32", n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: add_session(path, each), own))
    sessions = json.loads(path.read_text())["sessions"]
    assert sorted(each["world_size"] for each in sessions) == list(range(8))


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/opt/clone/train.py", "--MINUTES", "5"], "train.py --MINUTES 5"),
        (["train.py", "-ds", "/home/anna/my images"], "train.py -ds '~/my images'"),
        (["train.py", "--DATASET=/Users/anna/x"], "train.py '--DATASET=~/x'"),
        (["train.py", r"C:\Users\anna\x"], r"train.py '~\x'"),
        (["train.py", "-o", "/srv/me/x"], "train.py -o '~/x'"),
    ],
)
def test_a_command_line_names_nobody(
    argv: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/srv/me")
    monkeypatch.setenv("USERPROFILE", "/srv/me")
    assert command_line(argv) == shown
