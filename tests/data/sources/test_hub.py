"""What the `datasets` library reads: parquet, saved data sets, the hub; labels become words."""

import io
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minimagen.data.dataset import BadSampleError
from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.stream import ImageStream
from minimagen.data.loading.batches import training_batches, validation_batches
from minimagen.data.open import load_dataset
from minimagen.data.sources import hub
from minimagen.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on one core
]
datasets = pytest.importorskip("datasets")
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    # It waits that long at every end of an epoch, against a fault of Arrow at the process's end.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def _png(gray: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), gray).save(buffer, "PNG")
    return buffer.getvalue()


def _table(count: int, **columns: Any) -> Any:
    """Gray i with label i mod 3 and captions "i a", "i b"."""
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["7", "ice_cream", "dog"]),
        "captions": datasets.List(datasets.Value("string")),
    }
    rows: dict[str, list] = {
        "image": [{"bytes": _png(i % 256), "path": None} for i in range(count)],
        "label": [i % 3 for i in range(count)],
        "captions": [[f"{i} a", f"{i} b"] for i in range(count)],
    }
    rows = rows | columns
    kept = {name: features[name] for name in rows if name in features}
    rest = {name: datasets.Value("string") for name in rows if name not in features}
    return datasets.Dataset.from_dict(rows, datasets.Features(kept | rest))


def _grays(dataset: Any) -> list[int]:
    return [int(dataset[i].image[0, 0, 0]) for i in range(len(dataset))]


@pytest.mark.parametrize("form", ["file", "folder", "saved"])
def test_every_form_gives_images_and_captions_by_index(tmp_path: Path, form: str) -> None:
    table, path = _table(5), tmp_path / "mine"
    if form == "saved":
        table.save_to_disk(path)
    else:
        path.mkdir()
        path = path if form == "folder" else path / "any.parquet"
        table.to_parquet(path / "train.parquet" if form == "folder" else path)
    dataset = load_dataset(path, (8, 8), caption_column="captions")
    assert isinstance(dataset, ImageDataset)
    assert _grays(dataset) == list(range(5))
    assert dataset[3].caption == "3 a"
    assert {dataset.draw(3, Random(i)).caption for i in range(20)} == {"3 a", "3 b"}


def test_labels_become_words(tmp_path: Path) -> None:
    _table(4).remove_columns("captions").to_parquet(tmp_path / "a.parquet")
    dataset = load_dataset(tmp_path / "a.parquet", (8, 8))
    assert isinstance(dataset, ImageDataset)
    assert [sample.caption for sample in dataset] == ["seven", "ice cream", "dog", "seven"]
    _table(4).to_parquet(tmp_path / "b.parquet")
    assert load_dataset(tmp_path / "b.parquet", (8, 8), caption_column="label")[1].caption == (
        "ice cream"
    )


def test_splits_are_found_and_a_changed_file_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    _table(6).to_parquet(folder / "train.parquet")
    _table(2).to_parquet(folder / "test.parquet")
    train, valid = load_dataset(folder, (8, 8)).split()
    assert (len(train), len(valid)) == (6, 2)
    saved = datasets.DatasetDict({"train": _table(3), "validation": _table(1), "test": _table(2)})
    saved.save_to_disk(tmp_path / "saved")
    train, valid = load_dataset(tmp_path / "saved", (8, 8)).split()
    assert (len(train), len(valid)) == (3, 1)
    _table(9).to_parquet(folder / "train.parquet")
    assert len(load_dataset(folder, (8, 8))) == 9


def test_rows_that_are_no_image_or_have_no_caption_are_bad(
    tmp_path: Path, text_encoder: Any
) -> None:
    rows = [{"bytes": _png(i), "path": None} for i in range(40)]
    rows[3] = {"bytes": b"no image", "path": None}
    captions = ["words"] * 40
    captions[5] = " "
    _table(40, image=rows, text=captions).to_parquet(tmp_path / "a.parquet")
    dataset = load_dataset(tmp_path / "a.parquet", (8, 8))
    with pytest.raises(BadSampleError, match=r"a.parquet\[3\].*not an image"):
        dataset[3]
    with pytest.raises(BadSampleError, match=r"a.parquet\[5\]: no caption"):
        dataset[5]
    batches = validation_batches(dataset, text_encoder, 16, 40)
    assert sum(len(batch) for batch in batches) == 38


@pytest.mark.parametrize(
    "drop, column, message",
    [
        ("image", "captions", "no text 'file_name' among label, captions"),
        ("captions", "titel", "no column 'titel' among image, label"),
    ],
)
def test_missing_columns_are_explained(
    tmp_path: Path, drop: str, column: str, message: str
) -> None:
    _table(2).remove_columns(drop).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        load_dataset(tmp_path / "a.parquet", (8, 8), caption_column=column)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    _table(40).to_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    middle = bytearray(whole)
    middle[40:400] = bytes(360)
    (tmp_path / "b.parquet").write_bytes(middle)
    _table(3).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    for name in ("a.parquet", "b.parquet", "saved"):
        with pytest.raises((UserError, BadSampleError), match=name) as error:
            list(load_dataset(tmp_path / name, (8, 8), caption_column="label"))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (struct.pack("<4i", 0, 5, 10, 15), struct.pack("<4i", 0, 5, 10**9, 15)),
        (b"number", b"n\xff\xff\xff\xff\xff"),
    ],
    ids=["offsets", "text"],
)
def test_an_arrow_file_that_lies_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    """Arrow maps such a file as it is: wrong offsets would be read outside of its memory."""
    _table(3, text=["black", "white", "green"], more=["number"] * 3).save_to_disk(tmp_path)
    (file,) = tmp_path.glob("*.arrow")
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))
    with pytest.raises(UserError, match="is damaged") as error:
        load_dataset(tmp_path, (8, 8), caption_column="text" if old[0] == 0 else "more")
    assert "\n" not in str(error.value)


def test_an_image_that_is_a_pickle_is_only_a_bad_image(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    import pickle

    rows = [{"bytes": pickle.dumps(Planted()), "path": None}] * 2
    _table(2, image=rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(BadSampleError, match="not an image"):
        load_dataset(tmp_path / "a.parquet", (8, 8))[0]
    assert not (tmp_path / "ran").exists()


def test_a_streamed_file_trains_in_a_seeded_order(tmp_path: Path, text_encoder: Any) -> None:
    _table(60).to_parquet(tmp_path / "a.parquet")
    stream = load_dataset(tmp_path / "a.parquet", (8, 8), caption_column="captions", streaming=True)
    assert isinstance(stream, ImageStream)
    train, valid = stream.split(0.8, count=10)

    def grays(seed: int, start: int, workers: int = 0) -> list[int]:
        batches = training_batches(train, text_encoder, 8, seed, start, start + 12, workers)
        return [int(image[0, 0, 0]) for batch in batches for image in batch.images]

    held_out = set(_grays(valid))
    assert 4 <= len(held_out) <= 10
    seen = grays(0, 0)
    assert seen == grays(0, 0) and len(seen) == 96
    assert seen != grays(1, 0) and seen != grays(0, 5)
    assert not set(seen) & held_out
    assert len(set(seen)) >= 60 - 20  # all that are not held out
    assert set(grays(0, 0, workers=2)) == set(seen)
    assert train.sizes == {(8, 8): None}


def test_the_hub_is_asked_with_config_and_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    table = _table(3)

    def load(path: str, **options: Any) -> Any:
        asked.append((path, options))
        return datasets.DatasetDict({"train": table})

    monkeypatch.setattr(hub, "_check_hub", lambda *parts: asked.append(parts))
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("owner/name:some_config@v1.0", (8, 8))) == 3
    assert asked == [
        ("owner/name", "v1.0"),
        ("owner/name", {"name": "some_config", "revision": "v1.0", "streaming": False}),
    ]
    load_dataset("mnist", (8, 8))
    assert asked[-1] == ("mnist", {"name": None, "revision": None, "streaming": False})


def test_addresses_of_the_hub_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minimagen.data.download import download

    rows = {"image_url": [f"http://x/{i}" for i in range(6)], "caption": list("abcdef")}
    table = datasets.Dataset.from_dict(rows)
    monkeypatch.setattr(hub, "_check_hub", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": table})
    monkeypatch.setattr(download, "fetch_image", lambda url, _: _png(int(url[-1])))
    stream = load_dataset("conceptual_captions", (8, 8))
    assert isinstance(stream, ImageStream)
    captions = [row.captions[0] for row in stream.source.once() if not isinstance(row, Exception)]
    assert captions == list("abcdef")


def test_without_a_network_the_hub_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    with pytest.raises(UserError, match="'owner/name' here, and the hub cannot be reached"):
        load_dataset("owner/name")
    with pytest.raises(UserError, match="did you mean 'shapes'"):
        load_dataset("shaeps")
    with pytest.raises(UserError, match="give shapes, shapes:scenes"):
        load_dataset(tmp_path / "missing")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside this checkout")
@pytest.mark.parametrize(
    "name, lengths, caption",
    [("mnist", (60000, 10000), "five"), ("flowers", (2630, 662), None), ("textures", None, None)],
)
def test_real_parquet_folders_load(
    name: str, lengths: tuple[int, int] | None, caption: str | None
) -> None:
    dataset = load_dataset(SHARED / name, (32, 32))
    train, valid = dataset.split()
    assert lengths is None or (len(train), len(valid)) == lengths
    assert caption is None or train[0].caption == caption
    assert np.ptp(train[0].image) > 10 and train[0].image.shape == (32, 32, 3)
    with_labels = name != "textures" and load_dataset(SHARED / name, caption_column="label")
    assert not with_labels or with_labels[0].caption == train[0].caption
