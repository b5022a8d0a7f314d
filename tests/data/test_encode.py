"""`data encode`: every caption of every kind of source, once, without decoding an image."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from minimagen.__main__ import main
from minimagen.config.recipes import TEXT_ENCODER
from minimagen.data import encode
from minimagen.data.encode import encode_captions, walk_captions
from minimagen.data.images import decoding as transforms
from minimagen.data.indexed import as_dataset
from minimagen.data.open import load_dataset
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.encoding import encode_batch
from minimagen.text.pretrained import PretrainedEncoder

ROOT = Path(__file__).parents[2]
CAPTIONS = [("a red star",), ("a blue ring", "a ring in blue"), ("a heart",)]


@pytest.fixture(autouse=True)
def no_image_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(transforms, "open_image", refuse)


def folder(path: Path) -> Path:
    path.mkdir()
    rows = []
    for i, captions in enumerate(CAPTIONS):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": list(captions)})
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def with_validation(path: Path) -> Path:
    path.mkdir()
    folder(path / "train")
    folder(path / "validation")
    return path


def parquet(path: Path) -> Path:
    path.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    rows = {
        "image": [{"bytes": buffer.getvalue(), "path": None}] * 3,
        "text": [list(captions) for captions in CAPTIONS],
    }
    datasets.Dataset.from_dict(rows).to_parquet(path / "rows.parquet")
    return path


def shards(path: Path) -> Path:
    path.mkdir()
    with tarfile.open(path / "00000.tar", "w") as tar:
        for i, captions in enumerate(CAPTIONS):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8)).save(buffer, "PNG")
            written = json.dumps({"text": captions}).encode()
            for name, content in ((f"{i}.png", buffer.getvalue()), (f"{i}.json", written)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("make", "streaming"), [(folder, False), (parquet, False), (parquet, True), (shards, False)]
)
def test_all_variants_of_every_source_are_walked(
    make: Any, streaming: bool, tmp_path: Path
) -> None:
    source = make(tmp_path / "data")
    assert list(walk_captions(load_dataset(source, streaming=streaming))) == CAPTIONS


def test_the_validation_set_is_walked_too(tmp_path: Path) -> None:
    source = with_validation(tmp_path / "data")
    assert list(walk_captions(load_dataset(source))) == CAPTIONS * 2


def test_drawn_captions_are_those_of_the_samples() -> None:
    for level in ("simple", "scenes"):
        dataset = ShapesDataset(level=level, size=16, epoch_size=30)
        assert list(walk_captions(dataset)) == [(sample.caption,) for sample in dataset]


def test_a_data_set_of_the_users_own_is_walked() -> None:
    samples = [Sample(np.zeros((4, 4, 3), np.uint8), caption) for caption in ("a", "b")]
    assert list(walk_captions(as_dataset(samples))) == [("a",), ("b",)]


def test_training_after_encoding_asks_t5_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "data")
    with (source / "metadata.jsonl").open("a") as file:
        Image.new("RGB", (8, 8)).save(source / "3.png")
        file.write('\n{"file_name": "3.png", "text": ""}')
    assert main(["data", "encode", str(source), "--MAX_NUM_WORDS", "16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 captions in ") and "encoded now: 4 (" in out
    assert "4 distinct captions" in out and "bytes per caption: " in out
    assert "1 images have no usable caption" in out
    assert main(["data", "encode", str(source), "--MAX_NUM_WORDS", "16"]) == 0
    assert "encoded now: 0 (" in capsys.readouterr().out
    monkeypatch.setattr(PretrainedEncoder, "_embed", None)  # a call would fail
    cache = EmbeddingCache.on_disk(PretrainedEncoder(TEXT_ENCODER, 16))
    assert encode_batch(cache, [text for captions in CAPTIONS for text in captions]).mask.sum() > 8


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["nowhere"], "'nowhere'"),
        (["shapes", "--T5_NAME", "t5_mimi"], "did you mean 't5_mini'"),
        (["shapes", "--DEVICE", "abacus"], "'abacus' is not available"),
        (["shapes", "--MAX_NUM_WORDS", "0"], "equal to 1"),
        (["shapes", "--BATCH_SIZE", "1"], "unknown argument"),
        ([], "SOURCE"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], word: str, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert main(["data", "encode", *argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert word in line


def test_a_folder_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINIMAGEN_CACHE", str(tmp_path / "file"))
    assert main(["data", "encode", "shapes"]) == 2
    assert "MINIMAGEN_CACHE" in capsys.readouterr().err


def test_an_interruption_loses_at_most_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "WINDOW", 8)
    dataset = ShapesDataset(epoch_size=100)
    encoder = PretrainedEncoder("t5_mini")
    whole, calls = encoder.encode, []

    def interrupted(captions: list[str]) -> Any:
        calls.append(captions)
        if len(calls) == 6:  # the first one loads the weights
            raise KeyboardInterrupt
        return whole(captions)

    monkeypatch.setattr(encoder, "encode", interrupted)
    report = encode_captions(dataset, encoder)
    assert report.interrupted and report.encoded == report.in_folder == 32
    assert "interrupted: what is encoded stays" in report.text()
    rest = encode_captions(dataset, PretrainedEncoder("t5_mini"))
    assert rest.encoded + 32 == rest.in_folder == len(set(walk_captions(dataset)))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_at_the_command_line_ends_quietly(cache: Path) -> None:
    command = [sys.executable, "-m", "minimagen", "data", "encode", "shapes", "--EPOCH_SIZE"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process: Any = subprocess.Popen(
        [*command, "10000000"],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored behind nohup
        **pipes,
    )
    deadline = time.time() + 100
    while not list(cache.rglob("captions.sqlite")) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in out
    assert "Traceback" not in err
