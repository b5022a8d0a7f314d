"""A real browser for the tests of the page: Debian's Chromium, headless, driven by Playwright."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip


def need_a_browser() -> None:
    """Skip the module that calls it where a part is missing; continuous integration has them."""
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("Chromium is not installed", allow_module_level=True)
    pytest.importorskip("gradio")
    pytest.importorskip("playwright.sync_api")


class Seen:
    """A page, and what it should not do."""

    def __init__(self, browser: Any, url: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", self._message)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.set_default_timeout(30_000)  # of a busy machine
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

    def choose(self, label: str, option: str) -> None:
        """Choose an option of a dropdown."""
        self.page.get_by_label(label).locator("visible=true").first.click()
        self.page.get_by_role("option", name=option, exact=True).click()


def newest(root: Path) -> list[Path]:
    folders = sorted(root.glob("generated_images_*"), key=lambda p: p.stat().st_mtime_ns)
    return sorted((folders[-1] / "generated_images").glob("*.png"))
