"""A caption is one line, wherever it comes from: line i of a file belongs to image i."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from minimagen.cli.inference import read_captions
from minimagen.data.open import load_dataset
from minimagen.data.sources.shards import read_shard
from minimagen.data.sources.table import captions_of

BROKEN = "a  red\r\nstar\u2028on\tblue\x0b "
WHOLE = "a red star on blue"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def jsonl(folder: Path) -> None:
    (folder / "0.png").write_bytes(png())
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": [BROKEN]}))


def csv(folder: Path) -> None:
    (folder / "0.png").write_bytes(png())
    (folder / "metadata.csv").write_text(f'file_name,text\n0.png,"{BROKEN}"\n', newline="")


def text_file(folder: Path) -> None:
    """Its lines (\\n, \\r\\n, \\r) are captions of their own; the rest is as anywhere."""
    (folder / "0.png").write_bytes(png())
    (folder / "0.txt").write_text(" a  red\u2028star on\tblue\x0b ", "utf-8")


def parquet(folder: Path) -> None:
    images = [{"bytes": png(), "path": None}]
    pq.write_table(pa.table({"image": images, "text": [BROKEN]}), folder / "train.parquet")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("write", [jsonl, csv, text_file, parquet])
def test_captions_of_every_source_are_one_line(tmp_path: Path, write) -> None:
    write(tmp_path)
    assert load_dataset(tmp_path, (8, 8))[0].caption == WHOLE


@pytest.mark.parametrize("name", ["0.txt", "0.json"])
def test_captions_of_shards_are_one_line(tmp_path: Path, name: str) -> None:
    written = BROKEN if name == "0.txt" else json.dumps({"text": BROKEN})
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for member, content in (("0.png", png()), (name, written.encode())):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (row,) = read_shard(str(tmp_path / "a.tar"))
    assert row.captions == (WHOLE,)


def test_blank_captions_are_none_at_all() -> None:
    assert captions_of([BROKEN, " \n", "b"]) == (WHOLE, "b")
    assert captions_of("\n \t") == captions_of(None) == ()
    assert captions_of(3) is None


def test_captions_to_paint_are_one_line(tmp_path: Path) -> None:
    assert [caption.text for caption in read_captions(BROKEN)] == [WHOLE]
    (tmp_path / "c.txt").write_text("a  red\tstar\r\n\r\n blue \n", newline="")
    captions = read_captions(str(tmp_path / "c.txt"))
    assert [caption.text for caption in captions] == ["a red star", "blue"]
