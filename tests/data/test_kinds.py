"""What a source is, its content decides; what is no data is left out, and said so in one line."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minimagen.__main__ import main
from minimagen.data.dataset import Row
from minimagen.data.open import load_dataset
from minimagen.data.sources.listing import printable
from minimagen.errors import UserError
from tests.data.sources.test_shards import png, write_tar

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def texts(folder: Path, *names: str, suffix: str = ".png") -> Path:
    """Write images with .txt files; the caption is the name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(png(1))
        (folder / f"{name}.txt").write_text(printable(name))
    return folder


def metadata(folder: Path, *names: str, images: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if images:
        for name in names:
            (folder / f"{name}.png").write_bytes(png(1))
    rows = [json.dumps({"file_name": f"{name}.png", "text": name}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def shard(folder: Path, *names: str, file: str = "0.tar") -> Path:
    members = [
        (f"{n}{suffix}", c) for n in names for suffix, c in ((".png", png(1)), (".txt", n.encode()))
    ]
    write_tar(folder / file, members)
    return folder


def parquet(folder: Path, *names: str, file: str = "0.parquet", column: str = "image") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(1)}] * len(names) if column == "image" else [png(1)] * len(names)
    url = [f"http://localhost/{name}" for name in names]
    table = pa.table({column: images, "text": list(names), "url": url})
    pq.write_table(table, folder / file)
    return folder


def url_parquet(folder: Path, *names: str) -> None:
    urls = [f"http://localhost/{name}" for name in names]
    pq.write_table(pa.table({"url": urls, "caption": list(names)}), folder / "00000.parquet")


def captions(part: Any) -> list[str]:
    return sorted(row.captions[0] for row in part.rows() if isinstance(row, Row) and row.captions)


KINDS = [texts, metadata, shard, parquet]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("name", ["train", "[v1]", "a {1..2}", "star*", "what?", "pics.tar", "50%"])
def test_a_path_that_exists_is_no_pattern(tmp_path: Path, write: Callable, name: str) -> None:
    assert captions(load_dataset(write(tmp_path / name, "a", "b"))) == ["a", "b"]


@pytest.mark.parametrize("file", ["x [1].tar", "{1..2}.tar", "*.tar", "no suffix"])
def test_a_shard_that_exists_is_no_pattern(tmp_path: Path, file: str) -> None:
    assert captions(load_dataset(shard(tmp_path, "a", file=file) / file)) == ["a"]


@pytest.mark.parametrize("form", ["files", "folder", "parquet"])
def test_the_layouts_of_img2dataset_are_read_and_nothing_is_fetched(
    tmp_path: Path, form: str
) -> None:
    url_parquet(tmp_path, "a", "b")
    (tmp_path / "00000_stats.json").write_text('{"count": 2}')
    if form == "files":
        texts(tmp_path / "00000", "a", "b")
    elif form == "folder":
        shard(tmp_path, "a", "b", file="00000.tar")
    else:
        parquet(tmp_path, "a", "b", file="00000.parquet", column="jpg")
        assert captions(load_dataset(tmp_path / "00000.parquet")) == ["a", "b"]
    assert captions(load_dataset(tmp_path)) == ["a", "b"]


def test_what_lies_beside_the_data_does_not_decide(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parquet(tmp_path / "notes", "a")
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    (tmp_path / "notes" / "preview.png").write_bytes(png(1))
    assert captions(load_dataset(tmp_path / "notes")) == ["a"]
    assert "notes: left out 1 .txt (notes.txt), 1 .png (preview.png)" in caplog.text
    metadata(shard(tmp_path / "archive", "a", "b"), "a", "b", images=False)
    assert captions(load_dataset(tmp_path / "archive")) == ["a", "b"]
    shard(texts(tmp_path / "backup", "a", "b"), "old", file="backup.tar")
    assert captions(load_dataset(tmp_path / "backup")) == ["a", "b"]
    parquet(metadata(tmp_path / "listed", "a"), "old")
    assert captions(load_dataset(tmp_path / "listed")) == ["a"]


@pytest.mark.parametrize("write", KINDS)
def test_hidden_and_system_files_and_runs_are_no_data(
    tmp_path: Path, write: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "outer" / "photos", "a", "b")
    for place in [
        tmp_path / "outer",
        *([tmp_path / "outer/photos"] if write is not metadata else []),
    ]:
        for hidden in ("__MACOSX", ".ipynb_checkpoints"):
            write(place / hidden, "bad")
        texts(place, "._a", ".hidden")
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (place / name).write_bytes(b"\0")
        for run, mark in (
            ("training_1", "parameters/imagen.json"),
            ("x", "imagen_training_directory.txt"),
        ):
            write(place / run / "samples", "bad")
            (place / run / mark).parent.mkdir(exist_ok=True)
            (place / run / mark).write_text("{}")
    assert captions(load_dataset(tmp_path / "outer")) == ["a", "b"]
    assert caplog.text.count("outer: left out") == 1
    assert "hidden or system files" in caplog.text and "this program wrote" in caplog.text


def test_hidden_members_of_a_shard_are_no_data(tmp_path: Path) -> None:
    members = [("./a.png", png(1)), ("./a.txt", b"a"), ("./._a.png", b"x"), ("./._a.txt", b"x")]
    members += [("__MACOSX/b.png", png(1)), ("__MACOSX/b.txt", b"x"), (".git/c.png", png(1))]
    assert [str(row) for row in load_dataset(write_tar(tmp_path / "0.tar", members)).rows()
            if not isinstance(row, Row)] == []  # fmt: skip
    assert captions(load_dataset(tmp_path)) == ["a"]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "Val"])
def test_train_is_trained_on_another_validates_and_test_does_neither(
    tmp_path: Path, write: Callable, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train", "a", "b")
    write(tmp_path / name, "c")
    write(tmp_path / "test", "d")
    dataset = load_dataset(tmp_path)
    assert dataset.validation is not None
    assert (captions(dataset), captions(dataset.validation)) == (["a", "b"], ["c"])
    assert "files in test/" in caplog.text


@pytest.mark.parametrize("write", KINDS)
def test_the_test_set_validates_where_nothing_else_does(tmp_path: Path, write: Callable) -> None:
    write(tmp_path / "data" / "train", "a", "b")
    write(tmp_path / "data" / "test", "d")
    dataset = load_dataset(tmp_path)
    assert dataset.validation is not None
    assert (captions(dataset), captions(dataset.validation)) == (["a", "b"], ["d"])


@pytest.mark.parametrize("write", [shard, parquet])
def test_names_of_archives_divide_them(tmp_path: Path, write: Callable) -> None:
    end = write.__name__.replace("shard", "tar")
    for name, caption in (("train-0", "a"), ("train-1", "b"), ("val-0", "c"), ("test", "d")):
        write(tmp_path, caption, file=f"{name}.{end}")
    dataset = load_dataset(tmp_path)
    assert dataset.validation is not None
    assert (captions(dataset), captions(dataset.validation)) == (["a", "b"], ["c"])


def test_folders_that_are_no_division_are_all_trained_on(tmp_path: Path) -> None:
    for name in ("train", "car", "bicycle"):  # what the images show
        texts(tmp_path / name, name)
    dataset = load_dataset(tmp_path)
    assert captions(dataset) == ["bicycle", "car", "train"] and dataset.validation is None


def test_linked_folders_are_read_once_each_and_loops_end(tmp_path: Path) -> None:
    texts(tmp_path / "elsewhere", "a")
    texts(tmp_path / "data" / "own", "b")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "own" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "broken.png").symlink_to(tmp_path / "missing.png")
    assert captions(load_dataset(tmp_path / "data")) == ["a", "b"]


def test_suffixes_of_images_are_read_and_others_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in (".jfif", ".jpe", ".JPG", ".Png"):
        texts(tmp_path, suffix[1:], suffix=suffix)
    texts(tmp_path, "one", "two", suffix=".heic")
    (tmp_path / "jpe.txt").rename(tmp_path / "jpe.TXT")
    assert captions(load_dataset(tmp_path)) == ["JPG", "Png", "jfif", "jpe"]
    assert "2 .heic (one.heic)" in caplog.text


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
@pytest.mark.parametrize("write", KINDS)
def test_names_are_bytes(
    tmp_path: Path, write: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "plain", "a", "b").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    if write is parquet:  # its library cannot open such names
        assert main(["data", "check", str(folder)]) == 2
        assert r"caf\xe9/0.parquet: the reader" in capsys.readouterr().err
        return
    assert main(["data", "check", str(folder)]) == 0
    if write is texts:
        (folder / "a.png").rename(folder / os.fsdecode(b"gr\xfcn.png"))
        (folder / "a.txt").rename(folder / os.fsdecode(b"gr\xfcn.txt"))
        (folder / "b.png").write_bytes(b"x")
        assert main(["data", "check", str(folder)]) == 1
        out = capsys.readouterr().out
        assert "2 images, 2 captions" in out and r"caf\xe9/b.png: not an image" in out


@pytest.mark.parametrize("said", [b"\xb2", b"{", b'{"info": {"features": {"image": 3}}}'])
def test_a_parquet_file_with_damaged_metadata_is_one_line(tmp_path: Path, said: bytes) -> None:
    table = pa.table({"image": [{"bytes": png(1)}], "text": ["a"]})
    file = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), file)
    for source in (file, tmp_path):
        with pytest.raises(UserError, match="a.parquet has a damaged header") as error:
            load_dataset(source)
        assert "\n" not in str(error.value)


def test_a_name_is_printable_whatever_it_is() -> None:
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert printable("café.png") == "café.png"
    assert printable("\ud800").encode() == rb"\ud800"


def test_a_missing_image_is_one_problem_among_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text_encoder: Any
) -> None:
    folder = metadata(tmp_path / "data", *map(str, range(22)))
    (folder / "19.png").unlink()
    (folder / "20.png").write_bytes(b"x")
    assert main(["data", "check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "22 images" in out and "19.png: No such file" in out and "20.png: not an image" in out
    assert out.endswith("2 problems\n")


def test_semicolons_and_empty_cells_of_tables_are_read(tmp_path: Path) -> None:
    texts(tmp_path, "a", "b")
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["file_name", "text"], ["a.png", "x, y; z"]])
    assert captions(load_dataset(tmp_path / "metadata.csv")) == ["x, y; z"]
    rows = '{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": NaN}'
    (tmp_path / "nan.jsonl").write_text(rows)
    dataset = load_dataset(tmp_path / "nan.jsonl")
    assert [row.captions for row in dataset.rows() if isinstance(row, Row)] == [("x",), ()]


@pytest.mark.parametrize("write", KINDS)
def test_the_identity_is_that_of_the_content_wherever_it_is(
    tmp_path: Path, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "one" / "photos", "a", "b")
    before = load_dataset(folder).identity
    shutil.copytree(folder, tmp_path / "two" / "pictures", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "one")
    monkeypatch.chdir(tmp_path / "two")
    assert load_dataset("pictures").identity == before
    assert load_dataset(tmp_path / "two" / "pictures", 16).identity == before
    write(tmp_path / "two" / "pictures", "a", "bb")
    assert load_dataset("pictures").identity != before
    other = write(tmp_path / "three", "a", "b", "c")
    assert load_dataset(other).identity != before


def test_a_test_part_beside_other_folders_or_shards_is_not_trained_on(tmp_path: Path) -> None:
    """Also where nothing is called train."""
    for name in ("cats", "dogs", "test"):
        texts(tmp_path / "folders" / name, f"{name}1", f"{name}2")
    (tmp_path / "folders" / "README.md").write_text("mine")
    shard(shard(tmp_path / "shards", "a", "b", file="part-0.tar"), "c", file="test-0.tar")
    for folder, seen, kept in (
        ("folders", ["cats1", "cats2", "dogs1", "dogs2"], ["test1", "test2"]),
        ("shards", ["a", "b"], ["c"]),
    ):
        training, held_out = load_dataset(tmp_path / folder).split()
        assert captions(training) == seen and captions(held_out) == kept
    texts(tmp_path / "alone" / "test", "d")
    assert captions(load_dataset(tmp_path / "alone")) == ["d"]
