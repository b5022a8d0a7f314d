"""How soon is the page there, and how soon does it show something? In a headless Chromium.

    python -m benchmarks.page
    python -m benchmarks.page -d training_20261128_120000
    python -m benchmarks.page --image docs/page.png      only the image of the page in the docs

served       seconds from the command to an open port
first_text  seconds from the address to the first text (the browser's `first-contentful-paint`)
usable       seconds from the address to a button that can be pressed
preview      seconds from Generate to the first estimate, the first of a server, once a caption
             has been typed at ten letters a second
again        the same once more

Needs Chromium and the extra ``[ui]`` with Playwright. Each run has its own server and browser.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, Case, Row, answer, build_parser, run_cases, spread
from benchmarks.serving import start, stop

TINY = ROOT / "tests" / "golden" / "trained"
STEPS = 50
TYPED = "a red star on a blue background"
CAPTION = "a grinning face, noto style, on a pink background"
FIRST_TEXT = (
    """() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null"""
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def measure(case: Case, started: float) -> Row:
    """Start the page ``runs`` times, and press Generate twice in each."""
    del started
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(case["directory"], Path(folder) / "training")
        for _ in range(case["runs"]):
            for name, seconds in one_run(Path(folder)).items():
                found.setdefault(name, []).append(seconds)
    return {name: spread(each) for name, each in found.items()}


def one_run(root: Path) -> dict[str, float]:
    """Return the seconds of one server with one visitor."""
    with served(root) as (url, seconds), visitor() as page:
        found = {"served": seconds}
        begun = time.perf_counter()
        page.goto(url)
        button = page.get_by_role("button", name="Generate", exact=True).first
        button.wait_for()
        found["usable"] = time.perf_counter() - begun
        page.wait_for_function(FIRST_TEXT)
        found["first_text"] = page.evaluate(FIRST_TEXT) / 1000
        page.get_by_label("Caption", exact=True).press_sequentially(TYPED, delay=100)  # ms a key
        page.get_by_label("Steps").first.fill(str(STEPS))
        for name in ("preview", "again"):
            page.wait_for_function("!document.querySelector('#generate').disabled")
            begun = time.perf_counter()
            button.click()
            page.get_by_text("Stage 0: step").locator("visible=true").first.wait_for()
            found[name] = time.perf_counter() - begun
            page.get_by_text("1 image, seed").locator("visible=true").first.wait_for()
        return found


def write_image(path: Path) -> None:
    """Write what the page looks like after the bundled emoji have made six images."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served(where=Path(folder)) as (url, _),
        visitor() as page,
    ):
        page.goto(url)
        page.get_by_role("button", name="Generate", exact=True).first.wait_for()
        page.get_by_label("Caption", exact=True).fill(CAPTION)
        page.get_by_label("Seed").first.fill("0")
        page.get_by_label("number input for Images").fill("6")
        page.get_by_role("button", name="Generate", exact=True).first.click()
        page.get_by_text("6 images, seed 0").locator("visible=true").first.wait_for(timeout=90_000)
        page.wait_for_timeout(1000)  # until the images are there
        page.screenshot(path=path)


@contextmanager
def served(root: Path | None = None, where: Path = ROOT) -> Iterator[tuple[str, float]]:
    """Serve the page as ``start`` does; yield its URL and the seconds until its port was open."""
    begun = time.perf_counter()
    server, url = start(root, where)
    try:
        yield url, time.perf_counter() - begun
    finally:
        stop(server)


@contextmanager
def visitor() -> Iterator[Any]:
    """Yield an empty page of a browser of its own."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise SystemExit("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and print."""
    parser = build_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="[5]")
    parser.add_argument("-d", "--directory", type=Path, default=TINY, help="[the tests' cascade]")
    parser.add_argument("--image", type=Path, help="PNG of the page; nothing is measured")
    arguments = parser.parse_args(argv)
    if arguments.image is not None:
        write_image(arguments.image)
        return []
    if answer(arguments, measure):
        return []
    directory = arguments.directory.absolute()
    shown = directory.relative_to(ROOT) if directory.is_relative_to(ROOT) else directory
    case = {"directory": str(shown), "runs": 1 if arguments.quick else arguments.runs}
    return run_cases("benchmarks.page", [case], measure, arguments)


if __name__ == "__main__":
    main()
