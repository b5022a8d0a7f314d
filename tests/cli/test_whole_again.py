"""Strips and sheets made again from their own PNG."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from minimagen.cli import inference
from minimagen.storage.metadata import EXACT, read_generation, read_text

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("one_thread", "trained")
CAPTION = ["-c", "a red star"]
WHOLES = {
    "film": ["--FILM", *CAPTION, "-ng", "a circle", "-ar", "2", "--SEED", "3"],
    "interpolation": ["--INTERPOLATE", "-c", "two.txt", "--FRAMES", "3", "-b", "2", "--SEED", "3"],
    "stages": ["--STAGES_SHEET", "-c", "two.txt", "-g", "2,3", "--SEED", "3"],
    "sweep": ["--SWEEP", "guidance=1,3", "seed=4,5", *CAPTION, "-pr", "fp32"],
    "seeds": ["--INTERPOLATE", "--SEEDS", "7,8", *CAPTION, "--FRAMES", "3", "-w", "best"],
}


def whole(name: str, *more: str) -> Path:
    """Return the PNG of a strip or sheet."""
    Path("two.txt").write_text("a red star\na small blue ring\n")
    argv = ["-t", "2,3", "--DEVICE", "cpu", "-o", "out", *WHOLES[name], *more]
    assert inference.entry(argv) == 0
    return Path("out", f"{'interpolation' if name == 'seeds' else name}.png")


@pytest.mark.parametrize("name", WHOLES)
def test_a_strip_or_sheet_is_made_again_to_the_byte(name: str) -> None:
    made = whole(name)
    assert inference.entry(["--FROM_IMAGE", str(made), "--DEVICE", "cpu", "-o", "again"]) == 0
    assert Path("again", made.name).read_bytes() == made.read_bytes()
    assert EXACT in read_text(made)


def test_a_strip_or_sheet_says_how_it_was_made_in_words_too() -> None:
    text = read_text(whole("stages"))["parameters"]
    assert text.startswith("a red star\nSteps: 2, ")
    assert "Made as: stages_sheet, Captions: a red star | a small blue ring" in text
    sweep = read_text(whole("sweep", "-o", "other").parents[1] / "other" / "sweep.png")
    assert 'Sweep: "guidance=1,3 seed=4,5"' in sweep["parameters"]


def test_without_metadata_no_sheet_has_any() -> None:
    assert read_text(whole("film", "--NO_METADATA")) == {}
    assert (
        read_text(whole("sweep", "--NO_METADATA", "-o", "out2").parents[1] / "out2/sweep.png") == {}
    )


def test_what_is_typed_beside_a_strip_is_changed_or_refused(refused: Refused) -> None:
    made = whole("seeds")
    again = ["--FROM_IMAGE", str(made), "--DEVICE", "cpu", "-o", "again"]
    refused(inference.entry, [*again, "--SEED", "4"], "leave out --SEED")
    refused(inference.entry, [*again, *CAPTION], "leave out --CAPTIONS")
    refused(inference.entry, [*again, "--UPSCALE", str(made)], "leave out --UPSCALE")
    assert inference.entry([*again, "-t", "1", "-b", "1"]) == 0
    other = read_generation("again/interpolation.png")
    assert [stage["timesteps"] for stage in other.stages] == [1, 1] and other.batch.size == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"texts": []},
        {"texts": ["a", "b", "c"]},
        {"frames": 10**9},
        {"kind": "sweep"},
        {"kind": "sweep", "sweep": [["nonsense", ["1"]]]},
        {"kind": "sweep", "sweep": [["steps", []]]},
        {"kind": "sweep", "sweep": [["steps", ["x"]]]},
    ],
)
def test_what_a_strip_says_is_checked(changes: dict[str, object], refused: Refused) -> None:
    values = json.loads(read_text(whole("interpolation"))[EXACT])
    chunks = PngInfo()
    chunks.add_itxt(EXACT, json.dumps(values | {"whole": values["whole"] | changes}))
    Image.new("RGB", (4, 4)).save("false.png", pnginfo=chunks)
    refused(inference.entry, ["--FROM_IMAGE", "false.png", "--DEVICE", "cpu"])
