"""`data check --SHEET`: the images on it are those that a network is given."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minimagen.__main__ import main
from minimagen.data.open import load_dataset
from minimagen.data.sheet import write_sheet
from minimagen.errors import UserError
from minimagen.storage.image_files import contact_sheet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images, each wider than high with a border that a square crop cuts off; one is bad."""
    for i in range(9):
        image = Image.new("RGB", (60, 40), (20 * i, 0, 0))
        image.paste((0, 255, 0), (0, 0, 5, 40))
        image.save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"caption {i}")
    (tmp_path / "5.png").write_bytes(b"no image")
    return tmp_path


def test_the_sheet_has_the_crops_with_their_captions(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "sheets" / "one.png"
    assert write_sheet(load_dataset(folder, 16), path) == 8
    shades = [0, 1, 2, 3, 4, 6, 7, 8]
    images = [Image.new("RGB", (16, 16), (20 * i, 0, 0)) for i in shades]  # no green is left
    expected = contact_sheet([f"caption {i}" for i in shades], [images])
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))


def test_crops_are_drawn_as_in_training(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "crops.png"
    images = load_dataset(folder, 16, crop="random")
    assert write_sheet(images, path) == 8
    green = (np.asarray(Image.open(path)).astype(int) @ [-1, 1, -1] > 100).any()
    assert green  # the border of some image, which the middle has not


def test_of_many_images_some_are_shown_evenly_spaced(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.png"
    assert write_sheet(load_dataset(folder, 16), path, 3) == 3
    images = [Image.new("RGB", (16, 16), (20 * i, 0, 0)) for i in (0, 3, 6)]
    expected = contact_sheet([f"caption {i}" for i in (0, 3, 6)], [images])
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))


def test_the_command_writes_it_where_asked_or_here(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", str(folder), "--SHEET"]) == 1  # one image is bad
    assert "8 images are on sheet.png" in capsys.readouterr().out
    assert main(["data", "check", str(folder), "--SHEET", "a.png", "--IMG_SIDE_LEN", "8"]) == 1
    assert Path("sheet.png").stat().st_size and Path("a.png").stat().st_size
    assert main(["data", "check", str(folder)]) == 1
    assert {p.name for p in Path().glob("*sheet*")} == {"sheet.png"}


def test_a_stream_shows_each_image_once_and_ends_where_none_is_good(
    folder: Path, tmp_path: Path
) -> None:
    def shard(content: bytes | None) -> Path:
        with tarfile.open(path := tmp_path / "shard.tar", "w") as tar:
            for file in sorted(folder.glob("[0-8].[pt][nx][gt]")):
                data = file.read_bytes() if content is None or file.suffix != ".png" else content
                member = tarfile.TarInfo(file.name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return path

    assert write_sheet(load_dataset(shard(None), 16), tmp_path / "sheet.png") == 8
    with pytest.raises(UserError, match="no image can be shown"):
        write_sheet(load_dataset(shard(b"no image"), 16), tmp_path / "none.png")


def test_data_without_a_good_image_has_no_sheet(folder: Path, tmp_path: Path) -> None:
    for image in folder.glob("*.png"):
        image.write_bytes(b"no image")
    with pytest.raises(UserError, match="no image can be shown"):
        write_sheet(load_dataset(folder, 16), tmp_path / "none.png")
