"""Images of many shapes: each keeps its own, each batch has one, and any step can be found."""

import io
import json
import tarfile
from collections import Counter
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minimagen.config import DataConfig, ImagenConfig
from minimagen.config.cascade_sizes import aspect_buckets, trained_sizes
from minimagen.data.images.buckets import Buckets
from minimagen.data.images.decoding import upright_size
from minimagen.data.loading.batches import training_batches, validation_batches
from minimagen.data.loading.order import Order
from minimagen.data.open import load_dataset, open_again
from minimagen.errors import UserError
from minimagen.evaluation.clip import held_out as clip_held_out
from minimagen.evaluation.sets import read_sets
from minimagen.sample import Sample

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core

SMALLEST = {"dim": 8, "dim_mults": (1,), "num_resnet_blocks": 1, "patch_size": 1}
SIZES = ((20, 12), (16, 16), (12, 20))
SHAPES = {"tall": (50, 30), "square": (40, 44), "wide": (30, 60)}  # (height, width)


def write(folder: Path, count: int = 32, **shapes: int) -> Path:
    """Write ``count`` images, or so many of each shape; left half black, right half white."""
    numbers = shapes or {"tall": count // 4, "square": count // 2, "wide": count // 4}
    rows = []
    folder.mkdir(exist_ok=True)
    for shape, number in numbers.items():
        height, width = SHAPES[shape]
        for i in range(number):
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[:, width // 2 :] = 255
            Image.fromarray(pixels).save(folder / f"{shape}_{i}.png")
            rows.append({"file_name": f"{shape}_{i}.png", "text": f"{shape} {i}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_every_image_gets_the_size_of_the_nearest_shape(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path), (16, 16), buckets=SIZES)
    assert isinstance(dataset, Buckets) and len(dataset) == 32
    wanted = dict(zip(SHAPES, SIZES, strict=True))
    samples = [dataset[i] for i in range(32)]
    for sample in samples:
        assert sample.image.shape[:2] == wanted[sample.caption.split()[0]]
        half = sample.image.shape[1] // 2  # uncut: what was in the middle still is
        assert sample.image[:, : half - 1].max() < 40 and sample.image[:, half + 1 :].min() > 215
    assert len({sample.caption for sample in samples}) == 32
    assert dataset.sizes == {(20, 12): 8, (16, 16): 16, (12, 20): 8}


def test_a_camera_held_upright_makes_a_tall_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    Image.new("RGB", (60, 30)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (60, 30)).save(tmp_path / "a.png", exif=exif)
    Image.new("RGB", (60, 30)).save(tmp_path / "b.png")
    assert upright_size(tmp_path / "a.jpg") == upright_size(tmp_path / "a.png") == (60, 30)
    assert upright_size((tmp_path / "b.png").read_bytes()) == (30, 60)


def test_the_shapes_are_looked_at_once(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "images")
    first = load_dataset(folder, (16, 16), buckets=SIZES)
    assert "headers of 32 images" in caplog.text
    caplog.clear()
    again = load_dataset(folder, (16, 16), buckets=SIZES)
    assert caplog.text == ""
    assert [first[i].caption for i in range(32)] == [again[i].caption for i in range(32)]
    (file,) = (cache / "buckets").iterdir()
    whole = file.read_bytes()
    flipped = whole[:-8] + (99).to_bytes(8, "little")  # a row that is not there
    for damaged in (whole[:-3], b"", flipped, whole[:-8]):
        file.write_bytes(damaged)
        caplog.clear()
        mended = load_dataset(folder, (16, 16), buckets=SIZES)
        assert "headers of 32 images" in caplog.text
        assert mended[31].caption == first[31].caption and file.read_bytes() == whole


def test_rare_shapes_and_unreadable_images_join_others(tmp_path: Path) -> None:
    """Seven tall ones go to the nearest size that there is; what cannot be read to most others."""
    folder = write(tmp_path / "one", tall=7, square=9, wide=20)
    (folder / "square_0.png").write_bytes(b"no image")
    (folder / "tall_0.png").write_bytes(b"")
    dataset = load_dataset(folder, (16, 16), buckets=SIZES)
    assert isinstance(dataset, Buckets)
    assert dataset.sizes == {(16, 16): 14, (12, 20): 22}
    joined = {row.captions[0] for row in map(dataset.parts[16, 16].table.__getitem__, range(14))}  # type: ignore[attr-defined]
    assert joined == {f"tall {i}" for i in range(1, 7)} | {f"square {i}" for i in range(1, 9)}
    few = load_dataset(write(tmp_path / "few", tall=1, wide=2), (16, 16), buckets=SIZES)
    assert isinstance(few, Buckets) and few.sizes == {(12, 20): 3}


def test_data_that_is_unavailable_is_not_taken_for_square(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "images")
    load_dataset(folder)  # lists the files
    for file in list(folder.glob("*.png"))[:6]:
        file.unlink()
    with pytest.raises(UserError, match="6 of 32 images cannot be read .* unavailable"):
        load_dataset(folder, (16, 16), buckets=SIZES)
    assert not list((cache / "buckets").iterdir())


def test_one_bad_image_of_a_rare_shape_does_not_end_a_run(
    tmp_path: Path, text_encoder: Any
) -> None:
    dataset = load_dataset(write(tmp_path, tall=1, wide=60), (16, 16), buckets=SIZES)
    (tmp_path / "tall_0.png").write_bytes((tmp_path / "tall_0.png").read_bytes()[:60])
    assert len(_batches(dataset, text_encoder, 0, 60)) == 60


@pytest.mark.parametrize("lengths", [(7,), (5, 5), (1, 9), (40, 2, 13, 1), (3, 3, 3, 3, 3)])
def test_steps_are_shared_out_by_length(lengths: tuple[int, ...]) -> None:
    """Against all due times sorted; any step is found alone."""
    order, total, steps = Order(lengths, 0), sum(lengths), 400
    due = sorted(
        (Fraction(2 * k + 1, n), group, k) for group, n in enumerate(lengths) for k in range(steps)
    )
    found = [order.group_of(step) for step in range(steps)]
    assert found == [(group, k) for _, group, k in due[:steps]]
    counts = np.zeros(len(lengths))
    for step, (group, _) in enumerate(found, start=1):
        counts[group] += 1
        assert np.abs(counts - step * np.array(lengths) / total).max() <= len(lengths)


def test_an_order_of_several_groups_sees_every_sample_equally_often() -> None:
    order = Order((12, 4, 8), seed=3)
    rows = [batch for batch in order.batches(4, 0, 60)]
    seen = Counter(index for batch in rows for _, index in batch)
    assert set(seen) == set(range(24))
    assert max(seen.values()) - min(seen.values()) <= 1
    groups = [{0 if i < 12 else 1 if i < 16 else 2 for _, i in batch} for batch in rows]
    assert all(len(group) == 1 for group in groups)
    positions = [position for batch in rows for position, _ in batch]
    assert positions == list(range(240))
    assert list(order.batches(4, 37, 60)) == rows[37:]
    thirds = [list(order.batches(4, 5, 9, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*thirds, strict=True)] == rows[5:9]


def test_one_group_is_ordered_as_before_there_were_groups() -> None:
    """Runs of older versions resume: the numbers are theirs."""
    rows = [index for batch in Order((10,), seed=4).batches(3, 0, 5) for _, index in batch]
    assert rows == [0, 8, 6, 9, 4, 5, 7, 2, 1, 3, 0, 9, 7, 1, 4]


def _batches(dataset: Any, encode: Any, *span: int, **options: int) -> list[torch.Tensor]:
    return [b.images for b in training_batches(dataset, encode, 4, 0, *span, **options)]


def test_batches_have_one_size_and_a_run_may_start_anywhere(
    tmp_path: Path, text_encoder: Any
) -> None:
    data = load_dataset(write(tmp_path, 40), (16, 16), crop="random", flip=True, buckets=SIZES)
    training, validation = data.split(0.8)
    assert len(training) == 32 and len(validation) == 8
    whole = _batches(training, text_encoder, 0, 16)
    shapes = Counter(tuple(images.shape[-2:]) for images in whole)
    assert shapes == {(20, 12): 4, (16, 16): 8, (12, 20): 4}
    for start, workers in ((9, 0), (9, 2)):
        rest = _batches(training, text_encoder, start, 16, num_workers=workers)
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    halves = [_batches(training, text_encoder, 0, 16, rank=r, world=2) for r in (0, 1)]
    for images, parts in zip(whole, zip(*halves, strict=True), strict=True):
        assert torch.equal(images, torch.cat(parts))


def test_both_sides_of_a_division_have_all_shapes(tmp_path: Path, text_encoder: Any) -> None:
    data = load_dataset(write(tmp_path, tall=8, square=20, wide=10), (16, 16), buckets=SIZES)
    training, validation = data.split(0.8)
    assert isinstance(training, Buckets)
    assert training.sizes == {(20, 12): 6, (16, 16): 16, (12, 20): 8}
    names = [
        {s.name for s in map(part.__getitem__, range(len(part)))} for part in (training, validation)
    ]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 38
    batches = validation_batches(validation, text_encoder, 3, 7)
    assert sum(len(batch) for batch in batches) == 7
    assert {tuple(batch.images.shape[-2:]) for batch in batches} == set(SIZES)
    some = training.at_most(10)
    assert isinstance(some, Buckets)
    assert some.sizes == {(20, 12): 2, (16, 16): 5, (12, 20): 3}
    assert len(training.at_most(1)) == 1 and training.at_most(30) is training


def test_own_validation_images_keep_their_shapes_too(tmp_path: Path, text_encoder: Any) -> None:
    write(tmp_path / "train", wide=8)
    write(tmp_path / "validation", tall=2, wide=2)
    training, validation = load_dataset(tmp_path, (16, 16), buckets=SIZES).split()
    assert len(training) == 8
    shapes = {
        tuple(b.images.shape[-2:]) for b in validation_batches(validation, text_encoder, 4, 4)
    }
    assert shapes == {(20, 12), (12, 20)}


def test_a_bad_image_is_replaced_by_one_of_its_size(tmp_path: Path, spy_encoder: Any) -> None:
    """Its head is whole, so it counts as wide."""
    folder = write(tmp_path, tall=30, wide=30)
    noise = np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)
    file = folder / "wide_29.png"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    dataset = load_dataset(folder, (16, 16), buckets=SIZES)
    assert isinstance(dataset, Buckets)
    order = Order(tuple(dataset.sizes.values()), 0)
    assert [order.after(index) for index in (29, 59, 30)] == [0, 30, 31]
    for images in _batches(dataset, spy_encoder, 0, 16):
        assert images.shape[-2:] in ((20, 12), (12, 20))
    asked = set(spy_encoder.asked)
    assert "wide 29" not in asked and {f"wide {i}" for i in range(29)} <= asked


def test_a_stream_fills_batches_of_each_size(tmp_path: Path, text_encoder: Any) -> None:
    folder = write(tmp_path / "images", 40)
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        for row in map(json.loads, (folder / "metadata.jsonl").read_text().splitlines()):
            key = row["file_name"].removesuffix(".png")
            parts = {"png": (folder / row["file_name"]).read_bytes(), "txt": row["text"].encode()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    stream = load_dataset(tmp_path / "shards", (16, 16), buckets=SIZES)
    training, validation = stream.split(0.8, count=10)
    batches = list(islice(training_batches(training, text_encoder, 4, 0, 0, 60), 60))
    shapes = Counter(tuple(batch.images.shape[-2:]) for batch in batches)
    assert shapes.keys() == set(SIZES) and all(len(batch) == 4 for batch in batches)
    assert shapes[16, 16] > shapes[20, 12]
    valid = validation_batches(validation, text_encoder, 4, 10)
    assert len({tuple(batch.images.shape[-2:]) for batch in valid}) > 1


def test_drawn_images_are_square() -> None:
    with pytest.raises(UserError, match="shapes are square"):
        load_dataset("shapes", (16, 16), buckets=SIZES)


def test_a_list_of_parts_is_one_data_set() -> None:
    parts = {
        (4, 4 + k): [Sample(np.zeros((4, 4 + k, 3), np.uint8), f"{k} {i}") for i in range(n)]
        for k, n in enumerate((2, 0, 3))
    }
    data = Buckets(parts)  # type: ignore[arg-type]
    assert [data[i].caption for i in range(len(data))] == ["0 0", "0 1", "2 0", "2 1", "2 2"]


def test_data_opened_again_is_divided_as_its_training_was(tmp_path: Path) -> None:
    """What is held out was not trained on, at the one size that an evaluation compares."""
    folder = write(tmp_path / "images", 64)
    config = ImagenConfig.read({"image_sizes": [16], "stages": [{"unet": SMALLEST}]}, "test")
    sizes = aspect_buckets(config)
    assert len(sizes) > 2
    data = DataConfig(dataset=str(folder), aspect_buckets=True, train_valid_frac=0.75, seed=7)
    training, validation = load_dataset(folder, (16, 16), buckets=sizes).split(0.75, 7)
    again, held_out = open_again(data, 16, buckets=trained_sizes(config, data)).split(0.75, 7)
    assert {sample.caption for sample in held_out} == {sample.caption for sample in validation}
    assert {sample.caption for sample in again} == {sample.caption for sample in training}
    assert {sample.image.shape for sample in held_out} == {(16, 16, 3)}
    captions = {sample.caption for sample in read_sets(data, config, 16).held_out}
    assert captions <= {sample.caption for sample in validation}
    plain = data.replace(aspect_buckets=False)
    _, validation = load_dataset(folder, (16, 16)).split(0.75, 7)
    captions = {sample.caption for sample in clip_held_out(open_again(plain, 16), None, plain)}
    assert captions == {sample.caption for sample in validation}
