"""Own images: every common kind is read, bad ones are counted, mistakes are explained."""

import json
import logging
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import BadImageError, Framing, crop_resize, load_rgb
from minimagen.data.loading.batches import good_samples
from minimagen.data.open import load_dataset
from minimagen.errors import UserError
from minimagen.shapes.dataset import DrawnDataset, ShapesDataset
from minimagen.shapes.export import export_drawn

EMOJI = Path(__file__).parents[3].parent / "shared" / "data" / "emoji"


def _write(folder: Path, rows: list[dict | str]) -> Path:
    """Write metadata.jsonl."""
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _images(folder: Path, count: int) -> list[dict]:
    """Write images 0.png ... whose gray value is their number, and return their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (20, 20), (i, i, i)).save(folder / f"{i}.png")
    return [{"file_name": f"{i}.png", "text": f"gray {i}"} for i in range(count)]


@pytest.mark.parametrize("level", ["simple", "scenes"])
def test_an_export_read_back_is_the_stream(tmp_path: Path, level: str) -> None:
    stream = ShapesDataset("tune", level, 32, seed=5, epoch_size=12)
    out = export_drawn(tmp_path / "out", stream)
    folder = load_dataset(out, (32, 32))
    assert len(folder) == 12
    for index in range(12):
        ours, true = folder[index], stream[index]
        assert np.array_equal(ours.image, true.image)
        assert (ours.caption, ours.attributes) == (true.caption, true.attributes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hugging_face_datasets_reads_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    stream = ShapesDataset("train", "scenes", 16, epoch_size=6)
    out = export_drawn(tmp_path / "out", stream)
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["text"] for row in rows] == [stream[i].caption for i in range(6)]
    assert [row["color"] for row in rows] == [stream[i].attributes["color"] for i in range(6)]
    assert np.array_equal(np.array(rows[3]["image"]), stream[3].image)


def test_an_export_never_touches_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not an empty folder"):
        export_drawn(tmp_path, ShapesDataset(epoch_size=3))
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_the_lines_of_a_text_file_are_variants_of_its_image_s_caption(tmp_path: Path) -> None:
    _images(tmp_path, 2)
    (tmp_path / "0.txt").write_text("one\n\n two \n", encoding="utf-8")
    (tmp_path / "1.txt").write_text("drei: größer", encoding="utf-8")
    folder = load_dataset(tmp_path, (8, 8))
    assert [s.caption for s in folder] == ["one", "drei: größer"]
    assert [s.image[0, 0, 0] for s in folder] == [0, 1]
    assert {folder.draw(0, Random(i)).caption for i in range(20)} == {"one", "two"}


def test_bad_images_are_skipped_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = _images(tmp_path, 200)
    whole = (tmp_path / "7.png").read_bytes()
    (tmp_path / "7.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "9.png").write_text("no image")
    folder = load_dataset(_write(tmp_path, rows), (8, 8))
    with caplog.at_level(logging.WARNING):
        good = list(good_samples(folder, 1000))
    assert len(good) == 198
    assert not any(s.caption in ("gray 7", "gray 9") for s in good)
    assert caplog.text.count("7.png: ") == caplog.text.count("9.png: ") == 1


def test_too_many_bad_images_are_fatal(tmp_path: Path) -> None:
    rows = _images(tmp_path, 100)
    for i in range(6):
        (tmp_path / f"{i}.png").write_text("no image")
    folder = load_dataset(_write(tmp_path, rows))
    with pytest.raises(UserError, match="6 of 100 images are bad.*more than 5%.*0.png"):
        list(good_samples(folder, 100))


@pytest.mark.parametrize(
    "rows, message",
    [
        (["{"], "line 1 is not JSON"),
        ([{"file_name": "0.png", "text": "a"}, "[]"], "line 2 is not a JSON object"),
        ([{"file_name": "0.png", "txt": "a"}], "no column 'text'.*did you mean 'txt'"),
        ([{"file_name": "0.png", "text": 3}], "line 1: 'text' is neither text nor a list"),
        (['{"file_name": "0.png", "text": "\\ud800"}'], "half of a surrogate pair"),
        (["[" * 100_000], "line 1 is not usable JSON"),
        ([{"file": "0.png", "text": "a"}], "no text 'file_name'.*did you mean 'file'"),
        ([{"file_name": "0.png", "text": " "}], "holds no captions"),
        (
            [{"file_name": "gone.png", "text": "a"}],
            "no image that .* names is a file.*gone.png",
        ),
        ([], "no image that .* names is a file .the first: no row"),
    ],
)
def test_mistakes_in_metadata_are_explained(tmp_path: Path, rows: list, message: str) -> None:
    _images(tmp_path, 1)
    with pytest.raises(UserError, match=message):
        load_dataset(_write(tmp_path, rows))


def test_a_size_is_two_sides_or_one(tmp_path: Path) -> None:
    _write(tmp_path, _images(tmp_path, 1))
    assert load_dataset(tmp_path, 16)[0].image.shape == (16, 16, 3)
    assert load_dataset(tmp_path, (16, 8))[0].image.shape == (16, 8, 3)
    assert load_dataset("shapes", 16)[0].image.shape == (16, 16, 3)
    for size in (0, -1, 6.5, "64", (64,), (1, 2, 3), (64, 0), None):
        with pytest.raises(UserError, match="neither .height, width. nor a side"):
            load_dataset(tmp_path, size)  # type: ignore[arg-type]


def test_mistakes_in_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set"):
        load_dataset(tmp_path / "missing")
    with pytest.raises(UserError, match="shapes, shapes:scenes, digits, a folder"):
        load_dataset(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no images"):
        load_dataset(tmp_path)
    _images(tmp_path, 1)
    with pytest.raises(UserError, match="holds no captions"):
        load_dataset(tmp_path)
    (tmp_path / "0.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(UserError, match="0.txt is not UTF-8"):
        load_dataset(tmp_path)


def _gradient(mode: str) -> Image.Image:
    """Return a gray gradient from black at the left to white at the right, in a mode."""
    gray = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    if mode == "I;16":
        return Image.fromarray(gray.astype(np.uint16) * 257)
    image = Image.fromarray(gray)
    return image.convert("RGB").quantize(256) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    "mode, suffix",
    [("L", "png"), ("I;16", "png"), ("P", "gif"), ("LA", "png"), ("RGBA", "webp"), ("CMYK", "tif")],
)
def test_every_mode_keeps_its_grays(tmp_path: Path, mode: str, suffix: str) -> None:
    file = tmp_path / f"image.{suffix}"
    _gradient(mode).save(file, **({"lossless": True} if suffix == "webp" else {}))
    read = np.array(load_rgb(file)).astype(int)
    assert read.shape == (16, 256, 3)
    assert np.abs(read[0] - np.arange(256)[:, None]).max() <= 2


def test_transparency_becomes_white_also_in_palettes(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "b.png", transparency=0)
    for name in ("a.png", "b.png"):
        assert (np.array(load_rgb(tmp_path / name)) == 255).all()


def test_the_camera_s_orientation_is_applied_and_animations_give_their_first_frame(
    tmp_path: Path,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_rgb(tmp_path / "turned.jpg").size == (10, 30)
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert load_rgb(tmp_path / "film.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_decompression_bomb_is_a_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (50, 50)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImageError, match="bomb.png"):
        load_rgb(tmp_path / "bomb.png")


def test_the_crop_is_the_middle_and_the_resize_keeps_the_mean() -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    cropped = crop_resize(Image.fromarray(wide), (8, 8))
    assert np.array_equal(cropped, wide[:, 8:16])
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    small = crop_resize(Image.fromarray(noise), (16, 16))
    assert abs(small.mean() - noise.mean()) < 1.5  # without antialiasing it would be off by more
    assert small.std() < 0.5 * noise.std()
    assert crop_resize(Image.fromarray(noise), (16, 40)).shape == (16, 40, 3)


def test_beyond_the_cache_images_are_the_same(tmp_path: Path) -> None:
    table = load_dataset(_write(tmp_path, _images(tmp_path, 10))).table
    cached, lazy = (ImageDataset(table, Framing((8, 8)), cache_bytes=n) for n in (6000, 600))
    for _ in range(2):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(cached, lazy, strict=True))
    assert (len(cached._cache), len(lazy._cache)) == (10, 600 // 8**2)  # gray: a byte a pixel


def test_cached_images_lie_in_one_block(tmp_path: Path) -> None:
    """A million small arrays would keep the heap from being reused."""
    dataset = load_dataset(_write(tmp_path, _images(tmp_path, 10)), 8)
    whole = [sample.image.copy() for sample in dataset]
    assert isinstance(dataset, ImageDataset)
    (block,) = dataset._cache._blocks.values()
    assert block.shape == (10, 8, 8, 1)  # they are gray
    for place, (image, sample) in enumerate(zip(whole, dataset, strict=True)):
        assert np.array_equal(image, sample.image) and np.array_equal(block[place], image[..., :1])


def test_a_random_split_is_seeded_and_never_divides_an_image(tmp_path: Path) -> None:
    rows = _images(tmp_path, 20)
    rows += [row | {"text": row["text"] + " again"} for row in rows]
    dataset = load_dataset(_write(tmp_path, rows), (8, 8))
    train, valid = dataset.split(0.9, seed=1)
    names = [{part[i].name for i in range(len(part))} for part in (train, valid)]
    assert (len(train), len(valid)) == (18, 2)
    assert len(names[0] | names[1]) == 20
    again = dataset.split(0.9, seed=1)[1]
    assert [again[i].caption for i in range(2)] == [valid[i].caption for i in range(2)]
    with pytest.raises(UserError, match="between 0 and 1"):
        dataset.split(1.0)


def test_data_with_its_own_validation_set_keeps_it(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("validation", 2)):
        _write(tmp_path / name, _images(tmp_path / name, count))
    train, valid = load_dataset(tmp_path).split(0.5)
    assert (len(train), len(valid)) == (5, 2)
    train, valid = load_dataset("shapes:scenes", (16, 16), epoch_size=9).split()
    assert isinstance(train, ShapesDataset) and isinstance(valid, DrawnDataset)
    assert (train.identity, valid.identity, valid.size) == (
        "shapes:scenes train", "shapes:scenes tune", 16
    )  # fmt: skip


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji are not beside this checkout")
def test_a_real_folder_loads() -> None:
    dataset = load_dataset(EMOJI, (16, 16))
    assert len(dataset) == 4103
    assert dataset[0].caption == "grinning face"
    assert dataset[0].image.shape == (16, 16, 3)


def test_images_that_come_later_are_found(tmp_path: Path) -> None:
    """The stored list says which files were missing: they are looked for again."""
    rows = [{"file_name": f"{i}.png", "text": f"gray {i}"} for i in range(4)]
    folder = _write(tmp_path / "data", rows)
    with pytest.raises(UserError, match="is a file"):
        load_dataset(folder, 8)
    _images(folder, 3)
    first = load_dataset(folder, 8)
    assert len(list(good_samples(first, 3))) == 3
    before = first.identity
    _images(folder, 4)
    again = load_dataset(folder, 8)
    assert len(list(good_samples(again, 4))) == 4 and again.identity != before


def test_images_that_come_later_fit_a_condition_on_their_size(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "text": f"gray {i}"} for i in range(4)]
    folder = _write(tmp_path / "data", rows)
    for count in (2, 4):
        _images(folder, count)
        found = load_dataset(folder, 8, where="width >= 20")
        assert [*found.captions()] == [(f"gray {i}",) for i in range(count)]
