"""The page in a real browser: every tab at the width of a phone, and the view of a training."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.ui.browsing import Seen, need_a_browser, newest

need_a_browser()
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of gradio's own threads
    pytest.mark.usefixtures("one_thread_in_module"),
]
TABS = {  # and a button of each
    "Generate": "Generate", "Image to image": "Change it", "Inpaint": "Inpaint",
    "Upscale": "Upscale", "Interpolate": "Interpolate", "Sweep": "Sweep",
    "Stages": "Show every stage", "Film": "Film it", "Image info": "Use these", "History": None,
    "Training": "Look for runs",
}  # fmt: skip
UNLABELED = """[...document.querySelectorAll("input:not([type=file]), textarea, select")]
    .filter(e => e.offsetParent && !e.labels?.length && !e.ariaLabel
            && !e.getAttribute("aria-labelledby")).map(e => e.outerHTML.slice(0, 120))"""
SHOWN_NO_MORE = "first => ![...document.images].some(i => i.offsetParent && i.src === first)"
WIDTH = "document.documentElement.scrollWidth"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_tab_is_wider_than_the_window_and_every_control_of_each_has_a_label(
    browser: Any, url: str, width: int
) -> None:
    page = Seen(browser, url, width)
    for tab, button in TABS.items():
        page.open(tab)
        if button is not None:
            shown = page.page.get_by_role("button", name=button, exact=True)
            box = shown.locator("visible=true").last.bounding_box()
            assert 0 <= box["x"] and box["x"] + box["width"] <= width, tab
        assert page.page.evaluate(WIDTH) <= width, tab
        page.page.wait_for_function(f"{UNLABELED}.length === 0")
    page.close()


def test_a_phone_generates_and_shows_its_image(browser: Any, url: str, root: Path) -> None:
    page = Seen(browser, url, width=390)
    page.fill("Caption", "a red star")
    page.fill("Seed", "41")
    page.button("Generate").click()
    page.wait("seed 41, kept in")
    image = page.page.locator("[role=tabpanel]:visible .pixels img").first
    image.wait_for()
    box = image.bounding_box()
    assert 0 <= box["x"] and box["x"] + box["width"] <= 390
    assert page.page.evaluate(WIDTH) <= 390 and len(newest(root)) == 1
    page.close()


def test_on_a_phone_the_button_comes_before_the_settings(browser: Any, url: str) -> None:
    page = Seen(browser, url, width=390)
    guidance = page.page.get_by_label(re.compile(r"^\s*Guidance")).first
    guidance.wait_for(state="hidden")
    folded = page.button("Generate").bounding_box()["y"]
    page.page.get_by_text("How to sample").click()
    guidance.wait_for(state="visible")
    until = time.monotonic() + 10  # it unfolds step by step
    while page.button("Generate").bounding_box()["y"] <= folded + 150:
        assert time.monotonic() < until
        page.page.wait_for_timeout(50)
    page.close()


class Run:
    """A training that goes on while the page is open."""

    def __init__(self, root: Path) -> None:
        self.path = Path(root / "training_live")
        shutil.copytree(root / "training_tiny" / "parameters", self.path / "parameters")
        self._log("begun")

    def step(self, step: int, seconds_left: float, color: str) -> None:
        row = {"stage": 0, "step": step, "loss": 1 / step, "valid_loss": 2 / step,
               "time": time.time(), "seconds_left": seconds_left}  # fmt: skip
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        folder = self.path / "samples" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        Image.new("RGB", (60, 40), color).save(folder / "sheet.png")
        self._log(f"stage 0 step {step}")

    def end(self) -> None:
        self._log("training finished")

    def _log(self, line: str) -> None:
        with (self.path / "training_progress.txt").open("a") as file:
            file.write(f"{line}\n")


def test_a_training_is_followed_while_it_goes_on(seen: Seen, root: Path) -> None:
    seen.open("Training")
    seen.wait("This run has not begun")  # of the only one there was
    run = Run(root)
    run.step(10, 300.0, "red")
    seen.button("Look for runs").click()
    seen.choose("Training run", "training_live")
    seen.wait("stage 0, step 10, about 5 min left.")
    shown = seen.page.locator("[role=tabpanel]:visible")
    sheet = shown.locator("img").first
    sheet.wait_for()
    first = sheet.evaluate("image => image.src")
    assert shown.locator("figure circle").count() == 2  # lines of one point each
    log = shown.get_by_label("Log", exact=True)
    assert log.input_value() == "begun\nstage 0 step 10"
    run.step(20, 120.0, "lime")
    seen.wait("stage 0, step 20, about 2 min left.")  # by itself
    seen.page.wait_for_function(SHOWN_NO_MORE, arg=first)
    assert log.input_value().endswith("stage 0 step 20")
    lines = shown.locator("figure polyline")
    strokes = [line.evaluate("line => getComputedStyle(line).stroke") for line in lines.all()]
    assert len(set(strokes)) == 2 and "none" not in strokes  # of different colors
    assert "stage 0, validation" in shown.locator("figure .legend").inner_text()
    run.end()
    seen.wait("Finished.")
