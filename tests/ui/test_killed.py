"""The page's server, killed while it samples: what was done is on disk, whole."""

import itertools
import json
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gradio under pandas 3
    from gradio_client import Client

from benchmarks.serving import ROOT, start
from minimagen.storage.metadata import read_generation
from minimagen.ui.studio import AT_ONCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of gradio's own threads
]
IMAGES = 2 * AT_ONCE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "golden" / "trained", tmp_path / "training_tiny")
    return tmp_path


def steps(job: Any) -> Iterator[tuple[int, ...]]:
    """Yield the stage and step that the page shows while it samples."""
    deadline, seen = time.monotonic() + 60, 0
    while time.monotonic() < deadline:
        assert not job.done(), "all images were made before the server could be killed"
        said = [str(output[0]) for output in job.outputs()]
        for text in said[seen:]:
            if found := re.match(r"Stage (\d+): step (\d+) of", text):
                yield int(found[1]), int(found[2])
        seen = len(said)
        time.sleep(0.02)
    raise AssertionError("no second batch in 60 seconds")


def lines(root: Path, name: str) -> list[str]:
    """Return the whole lines of a file of the images."""
    found = list(root.glob(f"generated_images_*/{name}"))
    return found[0].read_text("utf-8").split("\n")[:-1] if found else []


def kill_in_second_batch(root: Path) -> int:
    """Kill the server while it samples the batch after the first; return how many were done."""
    server, url = start(root)
    try:
        form = ["training_tiny", "a red star", "", 5, IMAGES, "60,4", "", "", ""]
        client = Client(url, verbose=False, download_files=False)
        shown = steps(client.submit(*form, api_name="/generate"))
        next(later for step, later in itertools.pairwise(shown) if later < step)
        return len(lines(root, "images.jsonl"))
    finally:
        server.kill()
        server.wait(20)


def test_what_a_killed_server_had_made_is_whole_with_its_lines(root: Path) -> None:
    done = kill_in_second_batch(root)
    rows = [json.loads(line) for line in lines(root, "images.jsonl")]
    captions = lines(root, "captions.txt")
    (folder,) = root.glob("generated_images_*/generated_images")
    images = sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
    assert AT_ONCE <= done <= len(rows) < IMAGES
    assert len(rows) <= len(captions) <= len(images) <= len(rows) + 1  # one is being written
    assert set(captions) == {"a red star"}
    assert [row["seed"] for row in rows] == list(range(5, 5 + len(rows)))
    for row in rows:
        made = read_generation(folder / row["file_name"])
        assert {"file_name": row["file_name"]} | made.model_dump(mode="json") == row
