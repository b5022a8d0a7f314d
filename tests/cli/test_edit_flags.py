"""Flags that edit images: what each writes, and bad input in one line."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

from minimagen.cli import inference
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.metadata import read_generation

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["-c", "a red star", "-t", "2", "--DEVICE", "cpu", "--SEED", "3"]


@pytest.fixture
def image(trained: Path) -> Path:
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save("given.png")
    return Path("given.png")


@pytest.fixture
def mask(trained: Path) -> Path:
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 20, 20))
    mask.save("mask.png")
    return Path("mask.png")


def output(*argv: str) -> Path:
    assert inference.entry([*QUICK, "-o", "out", *argv]) == 0
    return Path("out")


def frames(path: Path) -> int:
    with Image.open(path) as animation:
        return int(getattr(animation, "n_frames", 1))


def test_a_film_that_is_stopped_leaves_no_empty_folder(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minimagen.editing.film", stopped)
    assert inference.entry([*QUICK, "--FILM"]) == 130
    assert [path.name for path in Path().iterdir()] == [trained.name]


def test_a_film_is_a_strip_and_two_animations_with_a_frame_for_each_step(trained: Path) -> None:
    made = output("--FILM")
    assert frames(made / "film.webp") >= 4  # equal frames become one that is shown longer
    with Image.open(made / "film.png") as strip, Image.open(made / "film.gif") as animation:
        assert strip.width == 5 * strip.height  # two stages of two steps, and the image
        assert animation.size == (strip.height, strip.height)


def test_a_film_is_followed_by_what_there_is_to_say_of_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DiffusionStage, "notes", lambda stage: [f"stage {stage.index}: burnt"])
    output("--FILM", "--ASPECT_RATIO", "2")
    printed = capsys.readouterr().out
    assert "stage 0: burnt\nstage 1: burnt\n" in printed and "others may look wrong" in printed


def test_an_interpolation_between_seeds_has_as_many_frames_as_asked(trained: Path) -> None:
    argv = ["-c", "a red star", "-t", "1", "--DEVICE", "cpu", "-o", "out", "--SEEDS", "1,2"]
    assert inference.entry([*argv, "--INTERPOLATE", "--FRAMES", "3"]) == 0
    assert frames(Path("out", "interpolation.webp")) == 3


def test_a_sweep_of_two_settings_has_a_row_and_a_column_for_each_value(trained: Path) -> None:
    made = output("--SWEEP", "steps=1,2", "guidance=1,2,4")
    with Image.open(made / "sweep.png") as sheet:
        assert sheet.width > sheet.height  # three columns, two rows
    images = [made / "generated_images" / f"image_{i}.png" for i in range(6)]
    assert [read_generation(path).stages[0]["timesteps"] for path in images] == [1] * 3 + [2] * 3
    argv = ["--FROM_IMAGE", str(images[4]), "--DEVICE", "cpu", "-o", "again"]
    assert inference.entry(argv) == 0  # each says how it was made
    assert Path("again/generated_images/image_0.png").read_bytes() == images[4].read_bytes()


def test_a_sweep_that_was_stopped_is_continued_to_its_sheet(
    trained: Path, before_each_batch: Callable[[Callable[[], None]], None]
) -> None:
    batches = iter(range(9))
    before_each_batch(lambda: next(batches) == 1 and os.kill(os.getpid(), signal.SIGINT))  # type: ignore[arg-type]
    assert inference.entry([*QUICK, "-o", "out", "--SWEEP", "guidance=1,2,4"]) == 130
    assert len([*Path("out/generated_images").iterdir()]) == 1
    assert not Path("out/sweep.png").exists()
    assert inference.entry(["--CONTINUE", "out", "--DEVICE", "cpu"]) == 0
    made = read_generation("out/sweep.png").whole
    assert made is not None and made.sweep == (("guidance", ("1", "2", "4")),)


def test_a_batch_that_memory_has_no_place_for_is_sampled_in_parts(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = Imagen.sample_batches, []

    def cramped(imagen: Imagen, captions: Sequence[str], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(captions))
        if len(captions) > 2:
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return whole(imagen, captions, *arguments, **options)

    made = output("-n", "10", "-b", "5", "-pr", "fp32")
    monkeypatch.setattr(Imagen, "sample_batches", cramped)
    assert inference.entry([*QUICK, "-n", "10", "-b", "5", "-pr", "fp32", "-o", "small"]) == 0
    assert sizes == [5, 3, 2, 1, 2, 2, 1, 2]  # it is not tried again
    for i in range(10):
        paths = [folder / "generated_images" / f"image_{i}.png" for folder in (made, Path("small"))]
        one, other = (np.asarray(Image.open(path)).astype(int) for path in paths)
        assert abs(one - other).max() <= 1
    place = read_generation(paths[1]).batch
    assert place is not None and (place.size, place.index) == (2, 1)


def test_a_given_image_is_cut_to_the_shape_that_is_asked_for(trained: Path) -> None:
    """A circle in a wide image stays a circle."""
    wide = Image.new("RGB", (128, 64), "black")
    ImageDraw.Draw(wide).ellipse((48, 16, 80, 48), fill="white")
    wide.save("wide.png")
    made = output("--INIT_IMAGE", "wide.png", "--STRENGTH", "0.01", "--ASPECT_RATIO", "2")
    (path,) = (made / "generated_images").glob("*.png")
    with Image.open(path) as new:
        assert new.width > 1.5 * new.height
        edit = load_file(made / "given.safetensors")["init_images"][0, 0] > 0
        assert edit.shape == (new.height, new.width)
        rows, columns = edit.any(1).sum(), edit.any(0).sum()
        assert abs(int(rows) - int(columns)) <= 1


def test_a_given_image_may_have_long_texts(trained: Path, image: Path) -> None:
    """Some programs write megabytes into a PNG, which Pillow refuses to read."""
    text = PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    with Image.open(image) as given:
        given.save("long.png", pnginfo=text)
    made = []
    for name in (str(image), "long.png"):
        flags = ["--INIT_IMAGE", name, "--STRENGTH", "0.5", "--SEED", "1", "-o", f"of_{name}"]
        assert inference.entry([*QUICK, *flags]) == 0
        (path,) = Path(f"of_{name}", "generated_images").glob("*.png")
        made.append(np.asarray(Image.open(path)))
    assert np.array_equal(*made)


def test_unmasked_pixels_of_the_file_are_those_that_were_given(image: Path, mask: Path) -> None:
    made = output("--INIT_IMAGE", str(image), "--MASK", str(mask), "--RESAMPLE", "2")
    (path,) = (made / "generated_images").glob("*.png")
    with Image.open(path) as new, Image.open(image) as given, Image.open(mask) as where:
        kept = np.asarray(where) == 0
        assert new.size == given.size
        assert (np.asarray(new)[kept] == np.asarray(given)[kept]).all()


def test_what_a_stage_refuses_leaves_no_folder(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def edits_nothing(*_: Any, **__: Any) -> None:
        raise UserError("stage 0 edits no images")

    argv = ["-d", "training_mine", *QUICK, "-o", "out", "--INIT_IMAGE", str(image)]
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionStage, "sample", edits_nothing)
        assert inference.entry(argv) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: stage 0 edits no images"
    assert not Path("out").exists()
    assert inference.entry(argv) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--INIT_IMAGE", "given.png", "--STRENGTH", "0"], "--STRENGTH"),
        (["--INIT_IMAGE", "given.png", "--STRENGTH", "2"], "--STRENGTH"),
        (["--INIT_IMAGE", "training_mine"], "not an image"),
        (["--INIT_IMAGE", "none.png"], "no such file"),
        (["--INIT_IMAGE", "training_mine/parameters/imagen.json"], "not an image"),
        (["--INIT_IMAGE", "given.png", "--MASK", "large.png"], "5000 x 4"),
        (["--INIT_IMAGE", "given.png", "--MASK", "small.png"], "8 x 8"),
        (["--INIT_IMAGE", "given.png", "--MASK", "black.png"], "black everywhere"),
        (["--MASK", "given.png"], "--INIT_IMAGE"),
        (["--INIT_IMAGE", "given.png", "--RESAMPLE", "2"], "--RESAMPLE belongs to --MASK"),
        (["--START_STAGE", "2"], "--START_STAGE belongs to --UPSCALE"),
        (["--FRAMES", "5"], "--FRAMES belongs to --INTERPOLATE"),
        (["--UPSCALE", "given.png", "--START_STAGE", "2"], "super-resolution"),
        (["--UPSCALE", "bomb.png"], "exceeds limit"),
        (["--SWEEP", "nonsense=1,2"], "no such setting"),
        (["--SWEEP", "seed=a,b"], "seed"),
        (["--SWEEP", "guidance"], "guidance=1,2,4"),
        (["--SWEEP", "steps=1,2", "timesteps=3"], "twice"),
        (["--SWEEP", "seed=1", "steps=1", "guidance=1"], "two"),
        (["--FILM", "--INIT_IMAGE", "given.png"], "exclude each other"),
        (["--INTERPOLATE"], "two captions"),
        (["--FILM", "--IMAGES_PER_CAPTION", "2"], "--IMAGES_PER_CAPTION"),
        (["--SWEEP", "steps=1", "--STOP_STAGE", "0"], "--STOP_STAGE"),
        (["--FILM", "-c", "lines.txt"], "in the line of a caption"),
        (["--FILM", "-c", "two.txt"], "--FILM is of one caption, there are 2"),
        (["--SWEEP", "steps=1,2", "-c", "two.txt"], "--SWEEP is of one caption"),
        (["--INIT_IMAGE", "given.png", "-c", "ratio.txt"], "--ASPECT_RATIO"),
        (["--UPSCALE", "given.png", "--STOP_STAGE", "0"], "before the first stage"),
        (["--INIT_IMAGE", "depth.tif"], "mode F"),
        (["--INIT_IMAGE", "drawing.eps"], "not an image"),  # Pillow would start Ghostscript
        (["-t", "1000000000"], "100000"),
    ],
)
def test_what_cannot_be_edited_is_refused(
    image: Path, refused: Refused, argv: list[str], words: str
) -> None:
    Image.new("RGB", (5000, 4)).save("large.png")
    Image.new("L", (8, 8), 255).save("small.png")
    Image.new("L", (32, 32)).save("black.png")
    Image.new("F", (32, 32)).save("depth.tif")
    Path("lines.txt").write_text("a red star --guidance 2\n")
    Path("two.txt").write_text("a red star\na blue ring\n")
    Path("ratio.txt").write_text("a red star --aspect_ratio 2\n")
    if "drawing.eps" in argv:
        Image.new("RGB", (8, 8)).save("drawing.eps")
    if "bomb.png" in argv:
        Image.new("1", (20000, 20000)).save("bomb.png")
    refused(inference.entry, ["-d", "training_mine", *QUICK, "-o", "out", *argv], words)
