"""Tables of captions: three formats, one result; foreign files give rows or one error."""

import csv
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from minimagen.data.open import load_dataset
from minimagen.data.sources import folder
from minimagen.data.sources.table import READERS, read_table
from minimagen.errors import UserError

ROWS = [
    {"file_name": "0.png", "text": "gray, dark", "color": "black"},
    {"file_name": "sub/1.png", "text": 'a "quoted"\n  caption', "color": "grün"},
]
FORMATS = ["jsonl", "csv", "parquet"]
COCO = Path(__file__).parents[3].parent / "shared" / "data" / "coco_captions_mini"


def _image(path: Path, gray: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (gray, gray, gray)).save(path)


def _table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the suffix says."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    _image(tmp_path / "0.png")
    _image(tmp_path / "sub" / "1.png", 9)
    file = _table(tmp_path / f"metadata.{suffix}", ROWS)
    for source in (tmp_path, file):
        samples = list(load_dataset(source, (8, 8)))
        assert [s.caption for s in samples] == ["gray, dark", 'a "quoted" caption']
        assert [s.attributes for s in samples] == [{"color": row["color"]} for row in ROWS]
        assert [int(s.image[0, 0, 0]) for s in samples] == [0, 9]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_list_of_captions_is_drawn_from(tmp_path: Path, suffix: str) -> None:
    _image(tmp_path / "0.png")
    rows = [{"file_name": "0.png", "text": "short", "captions": ["one", " ", "two"]}]
    _table(tmp_path / f"metadata.{suffix}", rows)
    assert load_dataset(tmp_path)[0].caption == "short"
    dataset = load_dataset(tmp_path, caption_column="captions")
    assert dataset[0].caption == "one"
    drawn = [dataset.draw(0, Random(i)).caption for i in range(40)]
    assert 10 < drawn.count("two") == 40 - drawn.count("one") < 30


@pytest.mark.skipif(not COCO.is_dir(), reason="the COCO images are not beside this checkout")
def test_five_captions_an_image_of_coco() -> None:
    dataset = load_dataset(COCO, (16, 16), caption_column="captions")
    assert dataset.validation is not None
    assert (len(dataset), len(dataset.validation)) == (37, 60)
    assert all(len(dataset.table[i].captions) >= 4 for i in range(37))


def test_a_missing_caption_column_is_explained(tmp_path: Path) -> None:
    _image(tmp_path / "0.png")
    _table(tmp_path / "metadata.csv", [{"file_name": "0.png", "title": "a"}])
    with pytest.raises(UserError, match=r"line 2 has no column 'titel'.*did you mean 'title'"):
        load_dataset(tmp_path, caption_column="titel")
    _table(tmp_path / "metadata.jsonl", [{"file_name": "0.png", "text": "a"}])
    with pytest.raises(UserError, match=r"metadata.jsonl and metadata.csv: keep one"):
        load_dataset(tmp_path)


def test_a_file_that_is_no_table_is_explained(tmp_path: Path) -> None:
    _image(tmp_path / "0.png")
    with pytest.raises(UserError, match="0.png is not a table: .jsonl, .csv"):
        load_dataset(tmp_path / "0.png")


def test_a_training_folder_alone_is_found(tmp_path: Path) -> None:
    _image(tmp_path / "train" / "0.png")
    _table(tmp_path / "train" / "metadata.csv", [{"file_name": "0.png", "text": "a"}])
    assert [s.caption for s in load_dataset(tmp_path)] == ["a"]


def test_the_second_start_reads_the_stored_list_and_a_change_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2):
        _image(tmp_path / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": f"a {i}"} for i in range(2)]
    _table(tmp_path / "metadata.jsonl", rows)
    read = []

    def spy(*arguments: Any) -> Iterator[folder.FileRow]:
        read.append(arguments)
        return folder_rows(*arguments)

    folder_rows = folder.metadata_rows
    monkeypatch.setattr(folder, "metadata_rows", spy)
    first, second = load_dataset(tmp_path), load_dataset(tmp_path)
    assert len(read) == 1
    assert [s.caption for s in first] == [s.caption for s in second] == ["a 0", "a 1"]
    _table(tmp_path / "metadata.jsonl", rows[:1])
    assert len(load_dataset(tmp_path)) == 1
    assert len(read) == 2


def test_a_text_file_that_changes_is_noticed(tmp_path: Path) -> None:
    _image(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("before")
    assert load_dataset(tmp_path)[0].caption == "before"
    (tmp_path / "0.txt").write_text("afterwards")
    assert load_dataset(tmp_path)[0].caption == "afterwards"


def test_a_failed_reading_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    _image(tmp_path / "0.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n{')
    with pytest.raises(UserError, match="line 2"):
        load_dataset(tmp_path)
    assert not [f for f in cache.rglob("*") if f.is_file()]


def test_rows_of_one_image_anywhere_are_merged(tmp_path: Path) -> None:
    for i in range(3):
        _image(tmp_path / f"{i}.png")
    names = ["2", "0", "1", "0", "2", "2"]
    rows = [{"file_name": f"{n}.png", "text": f"{n} {i}"} for i, n in enumerate(names)]
    _table(tmp_path / "metadata.jsonl", rows)
    table = load_dataset(tmp_path).table
    assert [table[i].captions for i in range(3)] == [
        ("0 1", "0 3"),
        ("1 2",),
        ("2 0", "2 4", "2 5"),
    ]


def test_a_list_is_stored_merged_or_not_at_all(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(tmp_path / "0.png")
    _image(tmp_path / "1.png")
    rows = [{"file_name": f"{n}.png", "text": str(i)} for i, n in enumerate("010")]
    _table(tmp_path / "metadata.jsonl", rows)
    written, write = [], folder._write

    def interrupted(path: Path, rows: Any) -> None:
        if written:  # the first time they are not merged yet
            raise KeyboardInterrupt
        written.append(path)
        write(path, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder, "_write", interrupted)
        load_dataset(tmp_path)
    assert written and not list(cache.rglob("*.arrow*"))
    assert load_dataset(tmp_path).table[0].captions == ("0", "2")


def test_a_list_of_which_a_power_cut_left_a_part_is_written_again(
    tmp_path: Path, cache: Path
) -> None:
    _image(tmp_path / "0.png")
    _table(tmp_path / "metadata.jsonl", [{"file_name": "0.png", "text": "a"}])
    load_dataset(tmp_path)
    (stored,) = cache.rglob("*.arrow")
    whole = stored.read_bytes()
    for length in (0, 8, len(whole) // 2, len(whole) - 1):
        stored.write_bytes(whole[:length])
        assert [s.caption for s in load_dataset(tmp_path)] == ["a"]
        assert stored.read_bytes() == whole


def test_a_table_travels_to_workers_as_its_path(tmp_path: Path) -> None:
    _image(tmp_path / "0.png")
    rows = [{"file_name": "0.png", "text": f"caption {i}"} for i in range(5000)]
    _table(tmp_path / "metadata.jsonl", rows)
    dataset = load_dataset(tmp_path)
    travelled = pickle.dumps(dataset)
    assert len(travelled) < 2000
    assert pickle.loads(travelled).table[0].captions == dataset.table[0].captions


def test_a_cache_folder_that_cannot_be_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a")
    monkeypatch.setenv("MINIMAGEN_CACHE", str(tmp_path / "0.txt" / "cache"))
    with pytest.raises(UserError, match="set MINIMAGEN_CACHE"):
        load_dataset(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
objects = st.fixed_dictionaries(
    {},
    optional={"file_name": st.just("0.png") | json_values, "text": json_values, "x": json_values},
)
lines = st.lists(objects.map(json.dumps) | st.text(max_size=30), max_size=4).map(
    lambda some: "\n".join(some).encode("utf-8", "surrogatepass")
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(content=b'"\n{"file_name": "0.png"}\n{}', suffix=".csv")
@given(content=lines | st.binary(max_size=80), suffix=st.sampled_from(sorted(READERS)))
def test_whatever_a_foreign_table_holds_it_is_rows_or_one_error(
    tmp_path: Path, cache: Path, content: bytes, suffix: str
) -> None:
    if not (tmp_path / "0.png").exists():
        _image(tmp_path / "0.png")
    file = tmp_path / f"table{suffix}"
    file.write_bytes(content)
    shutil.rmtree(cache, ignore_errors=True)
    try:
        samples = list(load_dataset(file, (8, 8)))
    except UserError as error:
        assert "\n" not in str(error).strip()
    else:
        assert samples and all(isinstance(s.caption, str) and s.caption.strip() for s in samples)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 1 << 16), flip=st.integers(1, 255), cut=st.integers(0, 1 << 16))
def test_a_damaged_parquet_file_is_rows_or_one_error(
    tmp_path: Path, at: int, flip: int, cut: int
) -> None:
    whole = tmp_path / "whole.parquet"
    if not whole.exists():
        _table(whole, [{"file_name": "0.png", "text": f"caption {i}"} for i in range(50)])
    content = bytearray(whole.read_bytes())
    content[at % len(content)] ^= flip
    file = tmp_path / "damaged.parquet"
    file.write_bytes(content[: 1 + cut % (4 * len(content))])
    try:
        rows = [columns for _, columns in read_table(file)]
    except UserError:
        return
    assert all(isinstance(columns, dict) for columns in rows)
