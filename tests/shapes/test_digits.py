"""The embedded data set of digits."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from minimagen.data.open import load_dataset
from minimagen.errors import UserError
from minimagen.shapes.dataset import DigitsDataset, embedded
from minimagen.shapes.digits import DIGITS, PARTIAL, WORDS
from minimagen.shapes.drawing import COLORS
from minimagen.shapes.splits import split_by_hash
from minimagen.shapes.textures import TILES, GeneratedTextures

SPLITS = ("train", "tune", "heldout")
COUNT = 400


def parquet(path: Path, images: list[np.ndarray], **columns: list[object]) -> Path:
    encoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    pyarrow.parquet.write_table(pyarrow.table({"image": encoded, **columns}), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> str:
    """Eight hundred digits, each a row of its own place, and three materials of one color each."""
    digits = []
    for i in range(800):
        image = np.zeros((28, 28), dtype=np.uint8)
        image[4 + 2 * (i % 10) : 8 + 2 * (i % 10), 4:24] = 255
        digits.append(image)
    mnist = parquet(tmp_path / "mnist.parquet", digits, label=[i % 10 for i in range(800)])
    shades = {"moss": (0, 90, 0), "slate": (60, 60, 90), "clay": (150, 60, 30)}
    tiles = [np.full((128, 128, 3), shade, dtype=np.uint8) for shade in shades.values()]
    textures = parquet(tmp_path / "textures.parquet", tiles, text=list(shades))
    return f"mnist={mnist},textures={textures}"


@pytest.mark.parametrize("split", SPLITS)
def test_an_image_has_the_triple_of_its_split_and_the_color_of_its_caption(split: str) -> None:
    for sample in DigitsDataset(split, size=64, epoch_size=60):
        have = sample.attributes
        triple = f"{have['digit']} in {have['color']} on {have['background']}"
        assert split_by_hash(triple) == split
        assert have["color"] != have["background"]
        solid = have["background"] in COLORS
        assert have["texture"] == ("no" if solid else "yes")
        if solid:
            assert tuple(sample.image[0, 0]) == COLORS[have["background"]]
        ink = (sample.image == COLORS[have["color"]]).all(-1)
        assert 0.005 < ink.mean() < 0.6


def test_captions_name_what_is_in_the_image_and_a_fifth_of_training_is_partial() -> None:
    missing: Counter[str] = Counter()
    for split in ("train", "heldout"):
        for sample in DigitsDataset(split, size=8, epoch_size=COUNT):
            words, have = sample.caption.lower().rstrip(".").split(), sample.attributes
            assert {have["digit"], WORDS[int(have["digit"])]} & set(words)
            missing[f"{split} color"] += have["color"] not in words
            missing[f"{split} background"] += have["background"] not in words
    assert missing["heldout color"] == missing["heldout background"] == 0
    for name in ("train color", "train background"):
        expected = PARTIAL * COUNT
        assert abs(missing[name] - expected) < 4 * (expected * (1 - PARTIAL)) ** 0.5


def test_every_digit_color_and_background_is_drawn() -> None:
    drawn = [DigitsDataset(size=8)._described(i)[0] for i in range(2000)]
    assert {each["digit"] for each in drawn} == set(DIGITS)
    assert {each["color"] for each in drawn} == set(COLORS)
    materials = GeneratedTextures().materials
    assert {each["background"] for each in drawn} == {*COLORS, *materials}
    assert 0.45 < sum(each["texture"] == "yes" for each in drawn) / 2000 < 0.55


def test_an_image_depends_on_seed_split_and_index_only() -> None:
    again = [DigitsDataset(size=16, seed=3)[7].image for _ in range(2)]
    assert np.array_equal(*again)
    assert not np.array_equal(again[0], DigitsDataset(size=16, seed=4)[7].image)


def test_generated_materials_differ_and_their_tiles_belong_to_one_split() -> None:
    textures = GeneratedTextures()
    assert len(textures.materials) == 10
    assert not set(TILES["train"]) & (set(TILES["tune"]) | set(TILES["heldout"]))

    class First:
        def choice(self, values: range) -> int:
            return values[0]

    tiles = {
        (material, split): textures.tile(material, split, First())  # type: ignore[arg-type]
        for material in textures.materials
        for split in SPLITS
    }
    for tile in tiles.values():
        assert tile.shape == (128, 128, 3) and tile.std() > 5
    pairs = list(tiles.values())
    assert all(not np.array_equal(a, b) for i, a in enumerate(pairs) for b in pairs[:i])


def test_digits_and_materials_of_files_are_used(files: str) -> None:
    dataset = load_dataset(f"digits:{files}", 28)
    for index in range(40):
        sample = dataset[index]
        have = sample.attributes
        assert have["background"] in {*COLORS, "moss", "slate", "clay"}
        ink = (sample.image == COLORS[have["color"]]).all(-1)
        rows = np.flatnonzero(ink.any(1))
        assert len(rows) and ink[rows].any(1).all()  # one bar, as the files have it
    assert dataset.description["dataset"] == f"digits:{files}"


def test_files_of_a_relative_path_are_known_in_other_folders(
    files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = files.replace(f"{tmp_path}/", "")
    assert load_dataset(f"digits:{relative}", 28).description["dataset"] == f"digits:{files}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits:mnits=x", "did you mean 'mnist'"),
        ("digits:mnist", "mnist=FILE, textures=FILE"),
        ("digits:mnist=missing.parquet", "missing.parquet is no parquet file"),
    ],
)
def test_what_is_no_such_data_is_one_line(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        load_dataset(name)
    assert "\n" not in str(raised.value)


def test_a_column_of_the_embedded_data_may_be_the_caption() -> None:
    samples = list(embedded("digits", size=8, epoch_size=20, caption_column="digit"))
    assert all(sample.caption == sample.attributes["digit"] for sample in samples)
    shapes = embedded("shapes", size=8, caption_column="color")
    assert shapes[0].caption == shapes[0].attributes["color"]
    assert shapes.split()[1][0].caption in COLORS
    with pytest.raises(UserError, match="no column 'colr'; did you mean 'color'"):
        embedded("shapes", caption_column="colr")
