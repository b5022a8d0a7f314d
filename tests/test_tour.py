"""docs/tour.md and examples/demo.ipynb are what tools/make_tour.py makes of their sources."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from minimagen import Imagen
from minimagen.diffusion.schedule import LOG_SNR_LIMIT
from minimagen.text.pretrained import PretrainedEncoder
from tools.tour.chapters import CHAPTERS, Tour
from tools.tour.page import FOLDER, notebook

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tour.md").read_text("utf-8")


def test_the_notebook_is_the_one_that_the_tool_writes() -> None:
    written = json.loads((ROOT / "examples" / "demo.ipynb").read_text("utf-8"))
    assert written == notebook()
    assert 12 <= len(written["cells"]) <= 22


def test_the_notebook_has_a_chapter_for_each_of_the_page() -> None:
    """The page's headings, and what of the notebook shows the same."""
    code = (FOLDER / "notebook.py").read_text("utf-8")
    shows = {
        "noise": "schedule.level(times)", "film": "film(imagen", "parts": "by_stage(",
        "augmentation": "aug_schedule.level", "null_token": "null token",
        "guidance": "[1.0, 3.0, 8.0]", "thresholding": '["none", "static", "dynamic"]',
        "attention": "observed_attention(",
    }  # fmt: skip
    assert shows.keys() == CHAPTERS.keys()
    assert [name for name, shown in shows.items() if shown not in code] == []


def test_the_page_is_its_source_with_the_levels_of_the_cosine_schedule() -> None:
    source = (FOLDER / "page.md").read_text("utf-8").replace("$images", "tour")
    before, after = source.split("$levels")
    assert PAGE.startswith(before) and PAGE.endswith(after)
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (-?[\d.]+) \|$", PAGE, re.M)
    assert len(rows) == 11
    for t, alpha, sigma, log_snr in (map(float, row) for row in rows):
        phase = t * math.pi / 2
        assert alpha == pytest.approx(math.cos(phase), abs=6e-4)
        assert sigma == pytest.approx(math.sin(phase), abs=6e-4)
        if 0.0 < t < 1.0:
            assert log_snr == pytest.approx(-2 * math.log(math.tan(phase)), abs=0.051)
        else:
            assert abs(log_snr) == LOG_SNR_LIMIT


def test_the_page_shows_every_chapter_in_few_bytes() -> None:
    shown = re.findall(r"\]\(tour/(\w+)\.png\)", PAGE)
    assert sorted(shown) == sorted(CHAPTERS)
    files = list((ROOT / "docs" / "tour").iterdir())
    assert sorted(file.stem for file in files) == sorted(CHAPTERS)
    assert sum(file.stat().st_size for file in files) <= 1_500_000


def test_every_chapter_is_made_by_a_cascade_of_two_stages(one_thread) -> None:
    tour = Tour(Imagen.from_parameters(ROOT / "parameters" / "testing").eval())
    with torch.inference_mode():
        sizes = {name: make(tour).size for name, make in CHAPTERS.items()}
    assert len(set(sizes.values())) > 5 and min(min(size) for size in sizes.values()) > 150


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("t5_mini", ["a", "red", "star", "</s>"]),
        ("minilm_mini", ["[CLS]", "a", "red", "star", "[SEP]"]),
    ],
)
def test_a_caption_is_cut_into_pieces_one_for_each_embedding(name, pieces) -> None:
    encoder = PretrainedEncoder(name)
    assert encoder.pieces("a red star") == pieces
    assert encoder.inspect(["a red star"])[0].tokens == len(pieces)
