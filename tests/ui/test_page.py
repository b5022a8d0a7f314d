"""The page in a real browser: Debian's Chromium, headless, driven by Playwright."""

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("Chromium is not installed", allow_module_level=True)
pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gradio under pandas 3
    from gradio_client import Client, handle_file

    from benchmarks.serving import start, stop
    from minimagen.storage.metadata import Edited, read_generation, read_text

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of gradio's own threads
    pytest.mark.usefixtures("one_thread_in_module"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio")
    shutil.copytree(ROOT / "tests" / "golden" / "trained", folder / "training_tiny")
    return folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    server, url = start(root)
    try:
        yield url
    finally:
        stop(server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Seen:
    """A page, and what it should not do."""

    def __init__(self, browser: Any, url: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", self._message)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.set_default_timeout(10_000)
        self.page.goto(url)
        self.button("Generate").wait_for()

    def _message(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            self.outside.append(request.url)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True).first

    def fill(self, label: str, text: str) -> None:
        self.page.get_by_label(re.compile(rf"^\s*{label}")).first.fill(text)

    def draw(self, canvas: Any) -> None:
        """Draw a line over the middle of the image that is edited."""
        canvas.wait_for()
        self.page.wait_for_timeout(1000)  # until the image is on the canvas
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x - 20, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 20, y, steps=5)
        self.page.mouse.up()

    def open(self, tab: str) -> None:
        """Choose a tab; where there is no room for it, it is in the menu of others."""
        shown = self.page.get_by_role("tab", name=tab, exact=True)
        if shown.count() and shown.first.is_visible():
            shown.first.click()
        else:
            self.page.locator(".overflow-menu > button").first.click()
            self.page.locator(".overflow-dropdown").get_by_text(tab, exact=True).click()

    def wait(self, text: str) -> None:
        self.page.get_by_text(text).locator("visible=true").first.wait_for()

    def close(self) -> None:
        assert self.errors == [] and self.outside == []
        self.page.close()


@pytest.fixture
def seen(browser: Any, url: str) -> Iterator[Seen]:
    page = Seen(browser, url)
    yield page
    page.close()


def newest(root: Path) -> list[Path]:
    folders = sorted(root.glob("generated_images_*"), key=lambda p: p.stat().st_mtime_ns)
    return sorted((folders[-1] / "generated_images").glob("*.png"))


def test_a_caption_becomes_an_image_that_says_how_it_was_made(seen: Seen, root: Path) -> None:
    seen.fill("Caption", "a red star")
    seen.fill("Seed", "7")
    seen.fill("Steps", "3,2")
    seen.button("Generate").click()
    seen.wait("seed 7, kept in")
    (first,) = newest(root)
    made = read_generation(first)
    assert (made.text, made.seed) == ("a red star", 7)
    assert [stage["timesteps"] for stage in made.stages] == [3, 2]
    seen.button("Generate").click()
    deadline = time.monotonic() + 20
    while (newest(root) or [first])[0] == first and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    assert newest(root)[0].read_bytes() == first.read_bytes()
    seen.page.get_by_text("Parameters and files").locator("visible=true").first.click()
    with seen.page.expect_download() as download:
        seen.page.locator(".file-preview a").locator("visible=true").first.click()
    assert read_text(download.value.path())["parameters"].startswith("a red star\nSteps: 3")
    seen.open("History")
    seen.page.locator("[role=tabpanel]:visible img").first.wait_for()


def test_the_keyboard_alone_generates(seen: Seen, root: Path) -> None:
    seen.page.get_by_label("Caption", exact=True).focus()
    seen.page.keyboard.type("a blue ring")
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Control+Enter")
    seen.wait("1 image, seed")
    assert read_generation(newest(root)[0]).text == "a blue ring"


def test_a_mistake_is_a_toast_and_the_page_goes_on(seen: Seen) -> None:
    seen.button("Generate").click()
    seen.wait("The caption is empty")
    seen.fill("Caption", "<img src=x onerror=alert(1)>")
    seen.fill("Steps", "many")
    seen.button("Generate").click()
    seen.wait("give numbers such as")
    seen.fill("Steps", "1")
    seen.button("Generate").click()
    seen.wait("1 image, seed")


def test_cancel_stops_and_leaves_the_page_usable(seen: Seen) -> None:
    seen.fill("Caption", "a red star")
    seen.fill("Steps", "3000,1")
    seen.button("Generate").click()
    seen.wait("Stage 0: step")
    assert seen.button("Generate").is_disabled()  # it was pressed
    seen.button("Cancel").click()
    seen.wait("Stopped.")
    seen.page.wait_for_function("!document.querySelector('#generate').disabled")
    seen.fill("Steps", "1")
    seen.button("Generate").click()
    seen.wait("1 image, seed")


def test_a_sweep_says_how_many_images_and_makes_them(seen: Seen, root: Path) -> None:
    seen.fill("Caption", "a red star")
    seen.open("Sweep")
    seen.page.get_by_label("Its values, with commas").first.fill("1,2")
    seen.wait("2 images")
    seen.button("Sweep").click()
    seen.wait("2 images, seed")
    assert len(newest(root)) == 2 and (newest(root)[0].parents[1] / "sweep.png").is_file()


def test_every_tab_that_begins_with_an_image_works_in_the_browser(
    seen: Seen, root: Path, tmp_path: Path
) -> None:
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / "given.png")
    seen.fill("Caption", "a red star")
    seen.fill("Steps", "2")
    tabs = (("Image to image", "Change it"), ("Upscale", "Upscale"), ("Inpaint", "Inpaint"))
    for seed, (tab, button) in enumerate(tabs, 31):
        seen.fill("Seed", str(seed))
        seen.open(tab)
        shown = seen.page.locator("[role=tabpanel]:visible")
        if tab == "Inpaint":  # the editor takes no file before its canvas is there
            shown.locator("canvas").first.wait_for()
            seen.page.wait_for_timeout(500)
        shown.locator("input[type=file]").first.set_input_files(str(tmp_path / "given.png"))
        if tab == "Inpaint":
            seen.draw(shown.locator("canvas").first)
        else:
            shown.locator("img").first.wait_for()
        seen.button(button).click()
        seen.wait(f"seed {seed}, kept in")
        made = read_generation(newest(root)[0])
        assert made.edit is not None and made.seed == seed
    assert made.edit.kind == "inpainting"  # of what was drawn over


def test_images_that_belong_together_are_made_in_the_browser(seen: Seen, root: Path) -> None:
    seen.fill("Caption", "a red star")
    seen.fill("Steps", "1")
    seen.open("Interpolate")
    seen.fill("Last caption", "a large blue ring")
    seen.button("Interpolate").click()
    seen.wait("9 images, seed")
    seen.open("Film")
    seen.button("Film it").click()
    seen.wait("3 images, seed")  # a step of each stage, and the image
    made = {path.name for path in root.glob("generated_images_*/*")}
    assert {"interpolation.gif", "interpolation.webp", "film.gif", "film.webp"} <= made


def test_image_info_fills_the_form(seen: Seen, root: Path, tmp_path: Path) -> None:
    seen.fill("Caption", "a green dot")
    seen.fill("Seed", "11")
    seen.fill("Steps", "2")
    seen.button("Generate").click()
    seen.wait("seed 11, kept in")
    path = newest(root)[0]
    seen.fill("Caption", "something else")
    seen.open("Image info")
    seen.page.locator("input[type=file]").locator("visible=false").last.wait_for(state="attached")
    seen.page.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(str(path))
    seen.page.wait_for_function(
        "[...document.querySelectorAll('textarea')].some(a => a.value.includes('Seed: 11'))"
    )
    seen.button("Use these").click()
    seen.page.wait_for_function(
        "[...document.querySelectorAll('textarea')].some(a => a.value == 'a green dot')"
    )
    filled = {name: seen.page.get_by_label(name).first.input_value() for name in ("Model", "Seed")}
    assert filled == {"Model": "training_tiny", "Seed": "11"}


def test_two_pages_queue_and_both_get_their_images(browser: Any, url: str) -> None:
    pages = [Seen(browser, url), Seen(browser, url)]
    for page, seed in zip(pages, ("21", "22"), strict=True):
        page.fill("Caption", "a red star")
        page.fill("Seed", seed)
        page.fill("Steps", "20")
        page.button("Generate").click()
    for page, seed in zip(pages, ("21", "22"), strict=True):
        page.wait(f"seed {seed}, kept in")
        page.close()


def test_nothing_is_wider_than_a_phone_and_every_control_has_a_label(
    browser: Any, url: str
) -> None:
    page = Seen(browser, url, width=390)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    unlabeled = page.page.evaluate(
        """[...document.querySelectorAll("input:not([type=file]), textarea, select")]
        .filter(e => e.offsetParent && !e.labels?.length && !e.ariaLabel
                && !e.getAttribute("aria-labelledby")).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert unlabeled == []
    page.close()


def test_a_training_run_is_shown(seen: Seen) -> None:
    seen.open("Training")
    seen.wait("This run has not begun")


def test_every_stage_is_shown_on_a_sheet(seen: Seen, root: Path) -> None:
    seen.fill("Caption", "a red star")
    seen.fill("Seed", "4")
    seen.fill("Steps", "2")
    seen.open("Stages")
    seen.button("Show every stage").click()
    seen.wait("seed 4, kept in")
    assert list(root.glob("generated_images_*/stages.png"))


def test_files_that_the_page_does_not_show_are_not_served(url: str, root: Path) -> None:
    for path in (root / "training_tiny" / "parameters" / "imagen.json", ROOT / "README.md"):
        with pytest.raises(HTTPError) as answer:
            urlopen(f"{url}gradio_api/file={path}")
        assert answer.value.code == 403


def test_on_a_phone_the_button_comes_before_the_settings(browser: Any, url: str) -> None:
    page = Seen(browser, url, width=390)
    guidance = page.page.get_by_label(re.compile(r"^\s*Guidance")).first
    guidance.wait_for(state="hidden")
    folded = page.button("Generate").bounding_box()["y"]
    page.page.get_by_text("How to sample").click()
    guidance.wait_for(state="visible")
    assert page.button("Generate").bounding_box()["y"] > folded + 150
    page.close()


def test_the_endpoints_work_without_a_browser(url: str, root: Path, tmp_path: Path) -> None:
    client = Client(url, verbose=False)
    form = ["training_tiny", "a red star", "", 5, 1, "2", "", "", ""]
    result = client.predict(*form, api_name="/generate")
    small = Path(newest(root)[0])
    assert result[-1] == 5 and "seed 5" in result[0]
    image = handle_file(str(small))
    client.predict(*form, image, 0.5, api_name="/image_to_image")
    assert read_generation(newest(root)[0]).edit == Edited(
        kind="image to image", strength=0.5, resample=1
    )
    assert json.loads(result[5])["seed"] == 5
    client.predict(*form, image, api_name="/upscale")
    assert read_generation(newest(root)[0]).edit == Edited(kind="upscale")
    mask = tmp_path / "mask.png"
    half = Image.new("L", (32, 32))
    half.paste(255, (0, 0, 16, 32))
    half.save(mask)
    editor = {"background": image, "layers": [], "composite": None}
    client.predict(*form, editor, handle_file(str(mask)), 2, api_name="/inpaint")
    before, after = Image.open(small), Image.open(newest(root)[0])
    right = (16, 0, 32, 32)
    assert before.crop(right).tobytes() == after.crop(right).tobytes()
    axes = ["guidance_scale", "1,3", "none", ""]
    client.predict(*form, *axes, api_name="/sweep")
    assert len(newest(root)) == 2
    with pytest.raises(Exception, match="caption is empty"):
        client.predict("training_tiny", " ", *form[2:], api_name="/generate")
