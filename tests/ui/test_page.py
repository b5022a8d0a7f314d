"""The page in a real browser: what it makes."""

import json
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from PIL import Image

from benchmarks.serving import ROOT
from minimagen.storage.metadata import Edited, read_generation, read_text
from tests.ui.browsing import Seen, need_a_browser, newest

need_a_browser()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gradio under pandas 3
    from gradio_client import Client, handle_file

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of gradio's own threads
    pytest.mark.usefixtures("one_thread_in_module"),
]


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
    seen.fill("Caption", "star " * 20_000)
    seen.button("Generate").click()
    seen.wait("A caption has 100000 characters")
    seen.fill("Caption", "<img src=x onerror=alert(1)>")
    seen.button("Generate").click()
    seen.wait("1 image, seed")


def test_a_file_that_is_no_image_is_a_toast_and_the_page_goes_on(
    seen: Seen, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("not an image")
    seen.fill("Caption", "a red star")
    seen.fill("Steps", "1")
    seen.open("Image info")
    files = seen.page.locator("[role=tabpanel]:visible input[type=file]")
    files.first.set_input_files(str(tmp_path / "text.png"))
    seen.wait("text.png is not an image that can be read")
    seen.open("Generate")
    seen.button("Generate").click()
    seen.wait("1 image, seed")


def test_cancel_stops_and_leaves_the_page_usable(seen: Seen) -> None:
    seen.fill("Caption", "a red star")
    seen.fill("Steps", "3000,1")
    seen.button("Generate").click()
    seen.wait("Stage 0: step")
    seen.wait("Preview: the estimate so far")
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
    seen.page.keyboard.press("Control+Enter")
    seen.wait("3 images, seed")  # a step of each stage, and the image
    (film,) = root.glob("generated_images_*/film.png")
    seen.button("Reuse seed").click()
    filled = "seed => [...document.querySelectorAll('input')].some(i => i.value === seed)"
    seen.page.wait_for_function(filled, arg=str(read_generation(film).seed))
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
    axes = ["guidance_scale", "1,3", "seed", "4,5,6"]
    client.predict(*form, *axes, api_name="/sweep")
    assert len(newest(root)) == 2 * 3
    with pytest.raises(Exception, match="caption is empty"):
        client.predict("training_tiny", " ", *form[2:], api_name="/generate")
