"""Images on disk: PNG files with their parameters, and contact sheets of sensible shape."""

import json
from pathlib import Path

import pytest
from PIL import Image

from minimagen.errors import UserError
from minimagen.storage import image_files
from minimagen.storage.files import read_lines
from minimagen.storage.image_files import LARGEST, ImageFolder, contact_sheet
from minimagen.storage.metadata import Generation, read_generation, save_png


def image(number: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (number, 2 * number % 256, 0))


def made(caption: str, seed: int) -> Generation:
    return Generation(text=caption, seed=seed, size=(8, 8), stages=({"timesteps": 4},))


def test_each_image_is_whole_on_disk_with_its_lines_once_written(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "out", Path("training_mine"))
    captions = ["a red star", "ein grüner Kreis"]
    for i, caption in enumerate(captions):
        folder.write(image(i), made(caption, 40 + i))
        rows = [json.loads(line) for line in read_lines(tmp_path / "out/images.jsonl")[:-1]]
        assert [row["text"] for row in rows] == captions[: i + 1]
        assert read_lines(tmp_path / "out/captions.txt")[i] == caption
        with Image.open(tmp_path / "out/generated_images" / rows[i]["file_name"]) as saved:
            assert saved.tobytes() == image(i).tobytes()
        path = tmp_path / "out/generated_images" / rows[i].pop("file_name")
        assert path.name == f"image_{i}.png"
        assert Generation.read(rows[i], "row") == read_generation(path) == made(caption, 40 + i)
    assert (tmp_path / "out/imagen_training_directory.txt").read_text() == "training_mine"


def test_the_grid_shows_the_first_images_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "GRID_IMAGES", 4)
    grids = []
    for count in (4, 9):
        folder = ImageFolder(tmp_path / str(count), Path("t"))
        for i in range(count):
            folder.write(image(20 * i), made("a star", i))
        grids.append(folder.write_grid().read_bytes())
    assert grids[0] == grids[1]


@pytest.mark.parametrize("caption", ["a star", "a large red star on a blue background " * 9])
@pytest.mark.parametrize("sizes", [[(64, 64)], [(16, 16), (256, 256)], [(40, 16)], [(512, 1024)]])
@pytest.mark.parametrize("count", [1, 2, 5, 16, 50, 64, 400])
def test_a_sheet_is_nearly_square_and_no_larger_than_its_limit(
    count: int, sizes: list[tuple[int, int]], caption: str
) -> None:
    sheet = contact_sheet([caption] * count, [[image(0, size)] * count for size in sizes])
    if count >= 16:  # with few cells the shape of a cell decides
        assert 0.5 < sheet.width / sheet.height < 2
    assert max(sheet.size) < 1.7 * LARGEST


def test_a_sheet_shows_every_image_beside_its_other_stages() -> None:
    stages = [[image(40 * i, size) for i in range(6)] for size in ((8, 8), (16, 16))]
    colors = {color for _, color in contact_sheet(["x"] * 6, stages).getcolors(2**20) or ()}
    assert {image.getpixel((0, 0)) for image in stages[0]} <= colors


def test_a_sheet_enlarges_small_images_without_new_colors_and_shrinks_large_ones() -> None:
    checkered = Image.new("RGB", (2, 2))
    checkered.putpixel((0, 0), (250, 0, 0))
    sheet = contact_sheet([""], [[checkered]])
    assert sheet.height >= 128
    assert {color for _, color in sheet.getcolors(2**20) or ()} == {
        (250, 0, 0), (0, 0, 0), (255, 255, 255),
    }  # fmt: skip
    many = contact_sheet([""] * 64, [[image(0, (1024, 1024))] * 64])
    assert LARGEST <= many.width < 1.1 * LARGEST


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_image_that_cannot_be_finished_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def half(self: Image.Image, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise stop

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises((KeyboardInterrupt, UserError)):
        save_png(tmp_path / "image.png", image(0))
    assert list(tmp_path.iterdir()) == []


def test_headings_stand_above_each_column_of_images() -> None:
    stages = [[image(0, (64, 64))] * 2, [image(1, (64, 64))] * 2]
    plain = contact_sheet(["a", "b"], stages, columns=2)
    headed = contact_sheet(["a", "b"], stages, columns=2, headings=["real", "ours"])
    extra = headed.height - plain.height
    below = headed.crop((0, extra + 4, *headed.size))  # the letters end before the images begin
    assert below.tobytes() == plain.crop((0, 4, *plain.size)).tobytes()
    quarter = headed.width // 4
    boxes = [(i * quarter, 0, (i + 1) * quarter, extra) for i in range(4)]
    assert all(
        headed.crop(box).getcolors() != [(quarter * extra, (255, 255, 255))] for box in boxes
    )
