"""Strips and sheets made again from their own PNG."""

import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from minimagen.cli import inference
from minimagen.images import to_pil
from minimagen.storage.animation import save_animations
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


@pytest.mark.parametrize("kind", ["gif", "webp"])
@pytest.mark.parametrize("name", ["film", "seeds"])
def test_an_animation_is_made_again_to_the_byte(name: str, kind: str) -> None:
    made = whole(name).with_suffix(f".{kind}")
    with Image.open(made) as image:
        assert getattr(image, "n_frames", 1) > 2
    assert inference.entry(["--FROM_IMAGE", str(made), "--DEVICE", "cpu", "-o", "again"]) == 0
    for suffix in (".png", ".gif", ".webp"):
        other = made.with_suffix(suffix)
        assert Path("again", other.name).read_bytes() == other.read_bytes()


def test_a_film_that_is_stopped_keeps_its_frames_and_says_how_to_make_the_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []

    def signaled(x: Tensor) -> list[Image.Image]:
        drawn.append(x)
        if len(drawn) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return to_pil(x)

    argv = ["-t", "2,3", "--DEVICE", "cpu", *WHOLES["film"]]
    with monkeypatch.context() as patch:
        patch.setattr("minimagen.editing.to_pil", signaled)
        assert inference.entry([*argv, "-o", "stopped"]) == 130
    assert {path.name for path in Path("stopped").iterdir()} == {
        "film.png", "film.gif", "film.webp"
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "interrupted: what was done is kept" in printed
    (command,) = (line for line in printed.splitlines() if line.startswith("make the whole: "))
    words = shlex.split(command)
    assert inference.entry([*words[words.index("--FROM_IMAGE") :], "-o", "again"]) == 0
    made = whole("film")
    assert Path("again/film.png").read_bytes() == made.read_bytes()
    with Image.open("stopped/film.png") as strip, Image.open(made) as all_frames:
        assert strip.width < all_frames.width
        assert strip.tobytes() == all_frames.crop((0, 0, *strip.size)).tobytes()


def test_a_signal_after_the_last_step_interrupts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def signaled(*arguments: Any, **options: Any) -> list[Path]:
        os.kill(os.getpid(), signal.SIGINT)
        return save_animations(*arguments, **options)

    monkeypatch.setattr("minimagen.storage.animation.save_animations", signaled)
    argv = ["-t", "2,3", "--DEVICE", "cpu", *WHOLES["film"], "-o", "late"]
    assert inference.entry(argv) == 0
    assert "interrupted" not in capsys.readouterr().out
    assert Path("late/film.png").read_bytes() == whole("film").read_bytes()
    assert {path.suffix for path in Path("late").iterdir()} == {".png", ".gif", ".webp"}


@pytest.mark.parametrize("name", ["interpolation", "stages", "seeds"])
def test_what_is_stopped_before_there_is_anything_leaves_nothing(
    name: str, before_each_batch: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before_each_batch(lambda: os.kill(os.getpid(), signal.SIGINT))
    Path("two.txt").write_text("a red star\na small blue ring\n")
    argv = ["-t", "2,3", "--DEVICE", "cpu", "-o", "out", *WHOLES[name]]
    assert inference.entry(argv) == 130
    assert "interrupted: nothing is kept" in capsys.readouterr().out
    assert not Path("out").exists()


def test_comments_of_other_programs_are_not_parameters(refused: Refused) -> None:
    exif = Image.Exif()
    exif[0x010E] = "minimagen"
    Image.new("RGB", (4, 4)).save("one.webp", exif=exif)
    Image.new("RGB", (4, 4)).save("two.gif", comment=b"\xffminimagen {}")
    Image.new("RGB", (4, 4)).save("three.jpg", comment=b"made by hand")
    refused(inference.entry, ["--FROM_IMAGE", "one.webp"], "its text 'minimagen' is not JSON")
    for name in ("two.gif", "three.jpg"):
        refused(inference.entry, ["--FROM_IMAGE", name], "does not say how it was made")
    Image.new("RGB", (4, 4)).save("four.gif", comment=b"minimagen {}")
    refused(inference.entry, ["--FROM_IMAGE", "four.gif"], "four.gif: its text 'minimagen': text")


def test_of_a_grid_one_of_its_images_is_made_again(refused: Refused) -> None:
    assert inference.entry([*CAPTION, "-t", "1", "--DEVICE", "cpu", "-o", "out"]) == 0
    refused(inference.entry, ["-fi", "out/grid.png"], "instead of grid.png one of its images")


def test_a_strip_or_sheet_says_how_it_was_made_in_words_too() -> None:
    text = read_text(whole("stages"))["parameters"]
    assert text.startswith("a red star\nSteps: 2, ")
    assert "Made as: stages_sheet, Captions: a red star | a small blue ring" in text
    sweep = read_text(whole("sweep", "-o", "other").parents[1] / "other" / "sweep.png")
    assert 'Sweep: "guidance=1,3 seed=4,5"' in sweep["parameters"]


def test_without_metadata_no_sheet_has_any() -> None:
    film = whole("film", "--NO_METADATA")
    assert [read_text(film.with_suffix(s)) for s in (".png", ".gif", ".webp")] == [{}] * 3
    assert (
        read_text(whole("sweep", "--NO_METADATA", "-o", "out2").parents[1] / "out2/sweep.png") == {}
    )


def test_what_is_typed_beside_a_strip_is_changed_or_refused(refused: Refused) -> None:
    made = whole("seeds")
    again = ["--FROM_IMAGE", str(made), "--DEVICE", "cpu", "-o", "again"]
    refused(inference.entry, [*again, "--SEED", "4"], "leave out --SEED")
    refused(inference.entry, [*again, *CAPTION], "leave out --CAPTIONS")
    refused(inference.entry, [*again, "--UPSCALE", str(made)], "leave out --UPSCALE")
    whole("sweep", "-o", "out2")
    swept = ["--FROM_IMAGE", "out2/sweep.png", "-o", "again", "-g", "5"]
    refused(inference.entry, swept, "leave out --GUIDANCE_SCALE")
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
