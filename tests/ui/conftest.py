"""What the tests of the page in a browser share: a folder of cascades, its server, a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import ROOT, start, stop
from tests.ui.browsing import CHROMIUM, FLAGS, Seen


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
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def seen(browser: Any, url: str) -> Iterator[Seen]:
    page = Seen(browser, url)
    yield page
    page.close()
