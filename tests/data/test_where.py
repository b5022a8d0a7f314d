"""`where`: a condition on columns picks the same rows of every kind of source."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from minimagen.__main__ import main
from minimagen.data.dataset import BadSampleError, IndexedDataset
from minimagen.data.open import load_dataset
from minimagen.data.where import Where
from minimagen.errors import UserError

STYLES = ("noto", "fluent", "open")
ROWS: list[dict[str, Any]] = [
    {"text": f"{'cat' if i % 2 else 'dog'} {i}", "style": STYLES[i % 3], "score": i / 10}
    for i in range(12)
]
ROWS[4]["score"] = None
SIDES = [8 + 2 * i for i in range(12)]  # of the images: no column has them


def _png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side + 2), (side * 5, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _jsonl(folder: Path) -> Path:
    folder.mkdir()
    for i, side in enumerate(SIDES):
        (folder / f"{i}.png").write_bytes(_png(side))
    lines = [json.dumps({"file_name": f"{i}.png"} | row) for i, row in enumerate(ROWS)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def _csv(folder: Path) -> Path:
    """Every value of a csv is a text."""
    _jsonl(folder)
    (folder / "metadata.jsonl").unlink()
    scores = ["" if row["score"] is None else row["score"] for row in ROWS]
    lines = [f"{i}.png,{r['text']},{r['style']},{scores[i]}" for i, r in enumerate(ROWS)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text,style,score", *lines]))
    return folder


def _parquet(folder: Path) -> Path:
    folder.mkdir()
    images = [{"bytes": _png(side), "path": None} for side in SIDES]
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    data = datasets.Dataset.from_dict({"image": images} | columns)
    data.cast_column("image", datasets.Image()).to_parquet(str(folder / "rows.parquet"))
    return folder


def _saved(folder: Path) -> Path:
    data = datasets.load_dataset("parquet", data_files=str(_parquet(folder) / "rows.parquet"))
    data.save_to_disk(str(folder / "saved"))
    return folder / "saved"


def _shards(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, (row, side) in enumerate(zip(ROWS, SIDES, strict=True)):
            for suffix, content in ("png", _png(side)), ("json", json.dumps(row).encode()):
                member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


KINDS = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet, "saved": _saved, "shards": _shards}
CONDITIONS = {
    "style == 'noto'": [0, 3, 6, 9],
    "style in ['noto', 'open'] and score < 0.75": [0, 2, 3, 5, 6],
    "not style == 'noto' or score * 10 >= 8.5": [1, 2, 4, 5, 7, 8, 9, 10, 11],
    "'cat' in text and 0.1 < score <= 0.5": [3, 5],
    "style not in ('noto', 'open')": [1, 4, 7, 10],
    "score >= 0": [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11],  # a missing value fits nothing
    "width >= 20 and height - width == 2": [6, 7, 8, 9, 10, 11],
    "width == 8 or style == 'open' and height > 26": [0, 11],
    "width / height >= 0.85": [2, 3, 4, 5, 6, 7, 8, 9, 10, 11],  # not cut to a whole number
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_that_fit_are_the_data(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path / kind)
    for condition, wanted in CONDITIONS.items():
        data = load_dataset(source, 8, where=condition)
        rows = [row.captions for row in data.rows() if not isinstance(row, Exception)]
        assert rows == [(ROWS[i]["text"],) for i in wanted], condition
        assert [*data.captions()] == rows
        assert data.description["where"] == condition


def test_streamed_parquet_is_filtered_as_it_comes(tmp_path: Path) -> None:
    source = _parquet(tmp_path / "rows")
    for condition, wanted in CONDITIONS.items():
        data = load_dataset(source, 8, where=condition, streaming=True)
        assert [*data.captions()] == [(ROWS[i]["text"],) for i in wanted], condition


def test_images_with_text_files_have_sides_and_captions(tmp_path: Path) -> None:
    for i, side in enumerate(SIDES):
        (tmp_path / f"{i:02d}.png").write_bytes(_png(side))
        (tmp_path / f"{i:02d}.txt").write_text(ROWS[i]["text"])
    data = load_dataset(tmp_path, 8, where="width > 12 and 'dog' in text")
    assert [*data.captions()] == [(ROWS[i]["text"],) for i in (4, 6, 8, 10)]


def test_columns_of_a_csv_are_compared_as_numbers_where_they_are_some() -> None:
    rows = [{"w": "1000", "h": "768", "day": "2026-02-01"}, {"w": "90", "h": "100", "day": "2025"}]

    def kept(text: str) -> list[bool]:
        return Where(text).kept(rows, [None, None])

    assert kept("w >= h") == [True, False]
    assert kept("w / h > 0.95") == [True, False]
    assert kept("day > w") == [True, True]  # as texts, and as the numbers 2025 and 90
    assert [Where("day > w").kept([row], [None]) for row in rows] == [[True], [True]]
    with pytest.raises(UserError, match="divide by zero"):
        Where("w / h > 1").kept([{"w": 1, "h": 0}], [None])
    with pytest.raises(UserError, match="a list holds numbers or texts, no names"):
        kept("w in [h]")
    assert kept("w == h") == [False, False]


@pytest.mark.parametrize(
    "text",
    [
        "s in ['noto']", "s not in ['noto']", "s == 'noto'", "s != 'noto'", "s < t", "'o' in s",
        "not s", "s and n > 0", "n > 0 or s", "n + s > 3", "-s < 1", "s == t", "s in []",
    ],
)  # fmt: skip
def test_what_is_missing_in_all_rows_fits_nothing(text: str) -> None:
    """As a sample of a tar shard, which is looked at alone, may have it."""
    rows = [{"s": None, "t": None, "n": 0}]
    assert Where(text).kept(rows, [None]) == [False]
    known = [{"s": None, "t": None, "n": 1}, {"s": "noto", "t": "open", "n": 1}]
    if "s in ['noto']" == text:
        assert Where(text).kept(known, [None, None]) == [False, True]


def test_a_number_that_is_too_large_is_one_line() -> None:
    with pytest.raises(UserError, match="does not fit the columns' values"):
        Where("n > 0").kept([{"n": 2**70}], [None])


def test_a_column_may_begin_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a later part of a table, or in a later shard."""
    monkeypatch.setattr("minimagen.data.sources.folder.WRITTEN_AT_ONCE", 2)
    rows = tmp_path / "rows"
    rows.mkdir()
    plain = [{"file_name": f"{i}.png", "text": "a"} for i in range(5)]
    lines = [*plain[:3], *(row | {"rating": i} for i, row in enumerate(plain[3:], 3))]
    for line in lines:
        (rows / str(line["file_name"])).write_bytes(_png(8))
    (rows / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert len(load_dataset(rows, 8, where="rating > 3")) == 1  # type: ignore[arg-type]
    shards = tmp_path / "shards"
    shards.mkdir()
    for name, own in (("0", {}), ("1", {"style": "noto"})):
        with tarfile.open(shards / f"{name}.tar", "w") as tar:
            row = json.dumps({"text": name} | own).encode()
            for suffix, content in (("png", _png(8)), ("json", row)):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    stream = load_dataset(shards, 8, where="style == 'noto'")
    assert list(stream.captions()) == [("1",)]
    with pytest.raises(UserError, match="no column 'stile' .*did you mean 'style'"):
        list(load_dataset(shards, 8, where="stile == 'noto'").captions())


@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_are_another_data_set(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path / kind)
    conditions = (None, "style == 'noto'", "style == 'open'")
    assert len({load_dataset(source, 8, where=each).identity for each in conditions}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelt_column_is_an_error_that_names_the_columns(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path / kind)
    with pytest.raises(UserError, match="no column 'stile' among .*did you mean 'style'") as error:
        list(load_dataset(source, 8, where="stile == 'noto'").captions())
    assert "score" in str(error.value) and "width, height" in str(error.value)


@pytest.mark.parametrize("make", [_jsonl, _parquet])
def test_no_row_that_fits_is_an_error(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fits `where` 'width > 900'"):
        load_dataset(make(tmp_path / "rows"), 8, where="width > 900")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read"),
        ("width >=", "cannot be read"),
        ("width = 3", "cannot be read"),
        ("1 < 2", "names no column"),
        ("width", "compares nothing"),
        ("__import__('os').system('true')", "not part of a condition"),
        ("text.upper() == 'A'", "not part of a condition"),
        ("[w for w in text]", "not part of a condition"),
        ("width ** 9999999", "Pow"),
        ("width is 3", "Is"),
        ("width in 3", "'in' needs a list"),
        ("text > 3", "does not fit the columns' values"),
        ("(" * 5000 + "width" + ")" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        Where(text).kept([{"width": 3, "text": "a"}], [None])
    assert "\n" not in str(error.value)


def test_an_image_that_cannot_be_read_has_no_sides() -> None:
    images = [b"no image", None, _png(9)]
    assert Where("width > 0").kept([{}] * 3, images) == [False, False, True]
    assert Where("not width > 99").kept([{}] * 3, images) == [False, False, True]


def test_the_command_line_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(_jsonl(tmp_path / "rows"))
    assert main(["data", "check", source, "--WHERE", "width >= 20"]) == 0
    assert "6 images, 6 captions" in capsys.readouterr().out
    assert main(["data", "check", source, "--WHERE", "widht >= 20"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --WHERE is 'widht >= 20'") and "did you mean 'width'" in error
    with pytest.raises(UserError, match="shapes are drawn, not read"):
        load_dataset("shapes", where="width > 3")
    assert isinstance(load_dataset(source, 8, where="width > 9").split()[0], IndexedDataset)


def test_a_sample_of_a_shard_that_lacks_the_column_is_left_out(tmp_path: Path) -> None:
    """One without metadata does not fit, one with damaged metadata is bad; neither ends the run."""
    (tmp_path / "rows").mkdir()
    parts = {"a": json.dumps({"style": "noto"}), "b": None, "c": "{", "d": '{"style": "noto"}'}
    with tarfile.open(tmp_path / "rows" / "0.tar", "w") as tar:
        for key, values in parts.items():
            contents = {"png": _png(8), "txt": key.encode()}
            if values is not None:
                contents["json"] = values.encode()
            for suffix, content in contents.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    found = list(load_dataset(tmp_path / "rows", 8, where="style == 'noto'").rows())
    good = [row.captions for row in found if not isinstance(row, BadSampleError)]
    bad = [str(row) for row in found if isinstance(row, BadSampleError)]
    assert good == [("a",), ("d",)] and len(bad) == 1 and "0.tar/c" in bad[0]


def test_shards_without_any_sample_that_fits_are_an_error(
    tmp_path: Path,
) -> None:
    """Validation shards of their own are all that is read before the training begins."""
    for name, style in (("train-0", "noto"), ("val-0", "photo")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            row = json.dumps({"text": "a", "style": style}).encode()
            for suffix, content in (("png", _png(8)), ("json", row)):
                member = tarfile.TarInfo(f"0.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    training, held_out = load_dataset(tmp_path, 8, where="style == 'photo'").split()
    assert len(held_out) == 1
    with pytest.raises(UserError, match="no sample of the shards fits `where`"):
        next(training.samples(0, 0, 1))
