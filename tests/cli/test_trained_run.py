"""``python -m minimagen evaluate`` and ``inference.py`` on a tiny trained run."""

import errno
import json
import logging
import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minimagen.__main__ import main as minimagen
from minimagen.cli import inference
from minimagen.cli.evaluate import _data
from minimagen.config import DataConfig
from minimagen.imagen import Imagen
from minimagen.sample import Sample
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.storage.image_files import contact_sheet
from minimagen.text.pretrained import PretrainedEncoder
from minimagen.training.run import train as run_training

FEW = ["--COUNT", "6", "--TIMESTEPS", "1", "--DEVICE", "cpu"]

pytestmark = pytest.mark.usefixtures("one_thread")


def data_of(
    directory: TrainingDirectory, name: str | None, column: str | None = None
) -> DataConfig:
    return _data(directory, Namespace(DATASET=name, CAPTION_COLUMN=column))


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that text encoders were sent to before they read their first caption."""
    devices: list[str] = []
    to, load = PretrainedEncoder.to, PretrainedEncoder.load

    def spy(encoder: PretrainedEncoder, device: Any) -> PretrainedEncoder:
        devices.append(str(device))
        return to(encoder, device)

    def loads(encoder: PretrainedEncoder) -> None:
        devices.append("load") if encoder._model is None else None
        load(encoder)

    monkeypatch.setattr(PretrainedEncoder, "to", spy)
    monkeypatch.setattr(PretrainedEncoder, "load", loads)
    return devices


def test_evaluate_prints_its_table_and_writes_the_sheet(
    trained: Path, capsys: pytest.CaptureFixture[str], moved: list[str]
) -> None:
    sheet = trained.parent / "sheets" / "one.png"
    assert minimagen(["evaluate", *FEW, "--SHEET", str(sheet)]) == 0  # the newest run here
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("training_mine: 6 heldout captions, ")
    names = lines[1].removeprefix("per cent correct").split()
    assert {*names} == {"shape", "color", "background", "size", "pattern", "all"}
    rows = ("judge on real, 16 x 16", "judge on real, 32 x 32", "shuffled captions")
    rows += ("sampled, 16 x 16", "sampled, 32 x 32")
    for line, row in zip(lines[2:7], rows, strict=True):
        assert line.startswith(row)
        scores = [float(cell) for cell in line.removeprefix(row).split()]
        assert len(scores) == len(names) and all(0 <= score <= 100 for score in scores)
    assert lines[7].startswith("fully correct at 32 x 32: 95 % interval ")
    assert lines[8].startswith("look at 16 x 16: kernel distance x 1000 ")
    assert lines[9].startswith("look at 32 x 32: kernel distance x 1000 ")
    assert any(line.startswith("super-resolution to 32 x 32: color shift") for line in lines[10:])
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 2 * 2 * 128  # 2 cells of both stages
    assert moved[:2] == ["cpu", "load"]


def test_the_captions_are_those_of_the_split_and_seed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*flags: str) -> list[str]:
        assert minimagen(["evaluate", "-d", str(trained), *FEW, *flags]) == 0
        return capsys.readouterr().out.splitlines()[1:]

    assert printed() == printed("--SEED", "1") == printed("--SPLIT", "heldout")
    assert printed() != printed("--SEED", "2")
    assert minimagen(["evaluate", "-d", str(trained), *FEW, "--SPLIT", "tune"]) == 0
    assert "6 tune captions" in capsys.readouterr().out


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert minimagen(["evaluate", *FEW, *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_data_that_cannot_be_opened_again_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was trained on is known from the data set itself, whoever opened it."""

    class MyImages:
        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> Sample:
            image = np.full((32, 32, 3), 30 * i, np.uint8)
            return Sample(image, f"gray {i}")

    parameters = read_parameters(trained / "parameters")
    config = parameters.training.replace(steps=1)
    run_training(Imagen(parameters.imagen), MyImages(), config, output="mine", device="cpu")
    error = refused(["-d", "mine"], capsys)
    assert "no data set" in error and "MyImages" in error


def test_the_sheet_of_ones_own_images_has_their_captions(
    trained: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def sheet(captions: list[str], *given: Any) -> Image.Image:
        lines[:] = captions
        return contact_sheet(captions, *given)

    monkeypatch.setattr("minimagen.storage.image_files.contact_sheet", sheet)
    asked = ["-d", str(trained), *FEW, "--DATASET", str(images), "--SHEET", "sheet.png"]
    assert minimagen(["evaluate", *asked]) == 0
    assert len(lines) == 6 and {*lines} <= {f"number {i}" for i in range(12)}
    with Image.open("sheet.png") as image:
        assert image.width > 2 * 2 * 128


def test_what_cannot_be_evaluated_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no training directory nowhere" in refused(["-d", "nowhere"], capsys)
    assert "end its name in .png" in refused(["-d", str(trained), "--SHEET", "sheet"], capsys)
    assert "3 values for 2 stages" in refused(["-d", str(trained), "-al", "0,0,0"], capsys)
    assert "greater than 0, given '0'" in refused(["-tp", "0"], capsys)
    Path("mine").mkdir()
    of_drawn = ["-d", str(trained), "--DATASET", "mine", "--SPLIT", "tune"]
    assert "--SPLIT is for the embedded data; leave it out" in refused(of_drawn, capsys)
    assert "must be 'none', 'static' or 'dynamic', given 'clip'" in refused(["-th", "clip"], capsys)
    assert not Path("sheet").exists()


def test_a_full_disk_costs_the_sheet_and_not_the_table(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save

    def full(image: Image.Image, path: Path, *given: Any, **named: Any) -> None:
        if "sheet.png" not in Path(path).name:
            return save(image, path, *given, **named)
        Path(path).write_bytes(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    Path("sheet.png").write_bytes(b"an older one")
    assert minimagen(["evaluate", "-d", str(trained), *FEW, "--SHEET", "sheet.png"]) == 2
    printed = capsys.readouterr()
    assert "sampled, 32 x 32" in printed.out
    assert printed.err.startswith("error: cannot write sheet.png: ")
    assert (trained / "evaluation.json").is_file() and (trained / "report.html").is_file()
    assert "No space left on device" in printed.err and printed.err.count("\n") == 1
    assert Path("sheet.png").read_bytes() == b"an older one"
    assert not list(trained.parent.glob("*.part"))


@pytest.mark.parametrize("offload", [[], ["--OFFLOAD"]])
def test_the_text_encoder_of_inference_goes_to_the_device(
    trained: Path, moved: list[str], offload: list[str]
) -> None:
    argv = ["-d", str(trained), "-c", "a red star", "-t", "1", "--DEVICE", "cpu", *offload]
    assert inference.entry(argv) == 0
    assert moved[:2] == ["cpu", "load"]


def test_inference_takes_sampling_settings_per_stage(trained: Path) -> None:
    argv = ["-d", str(trained), "-c", "a red star", "-t", "1", "--AUG_LEVEL", "0,0.25", "-o", "out"]
    argv += ["--THRESHOLDING", "static,dynamic", "--DYNAMIC_THRESHOLDING_PERCENTILE", "0.9"]
    assert inference.entry(argv) == 0
    row = json.loads(Path("out", "images.jsonl").read_text())
    assert [stage["aug_level"] for stage in row["stages"]] == [0.0, 0.25]
    assert [stage["thresholding"] for stage in row["stages"]] == ["static", "dynamic"]
    assert [s["dynamic_thresholding_percentile"] for s in row["stages"]] == [0.9, 0.9]


@pytest.mark.parametrize("offload", [[], ["--OFFLOAD"]])
def test_inference_says_once_how_many_captions_were_cut(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    offload: list[str],
) -> None:
    long = [f"a red star number {i} " + "and another one " * 30 for i in range(3)]
    Path("captions.txt").write_text("\n".join(["a red star", *long]) + "\n")
    argv = ["-d", str(trained), "-c", "captions.txt", "-t", "1", "-n", "2", "-b", "1", "-o", "out"]
    argv += offload
    with caplog.at_level(logging.WARNING, logger="minimagen"):
        assert inference.entry(argv) == 0
    assert "3 different captions were cut to 64 tokens" in capsys.readouterr().out
    assert len(caplog.records) == 1
    lines = Path("out", "captions.txt").read_text().splitlines()
    assert len(lines) == 8 == len(list(Path("out", "generated_images").iterdir()))


def test_the_same_data_by_another_name_is_divided_as_in_training(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained.parent / "images"
    folder.mkdir()
    path = trained / "parameters" / "data.json"
    own = {"dataset": str(folder), "train_valid_frac": 0.97, "caption_column": "name"}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    directory = TrainingDirectory.open(trained)
    for name in (None, str(folder), "images", "../" + trained.parent.name + "/images"):
        assert data_of(directory, name).train_valid_frac == 0.97, name
    (trained.parent / "others").mkdir()
    assert data_of(directory, "others").train_valid_frac == DataConfig().train_valid_frac
    assert data_of(directory, "images", "what").caption_column == "what"
    moved = trained.parent / "moved" / "images"
    moved.mkdir(parents=True)
    assert data_of(directory, str(moved)).train_valid_frac != 0.97  # of the same name, both here
    folder.rmdir()
    assert data_of(directory, str(moved)).train_valid_frac == 0.97


def test_data_that_may_have_been_trained_on_is_said(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (trained / "parameters" / "data.json").unlink()
    with caplog.at_level(logging.WARNING, logger="minimagen"):
        data_of(TrainingDirectory.open(trained), "my_images")
    (record,) = caplog.records
    assert "images of my_images that count as held out may have been trained on" in record.message
    with caplog.at_level(logging.WARNING, logger="minimagen"):
        data_of(TrainingDirectory.open(trained), "shapes")
    assert len(caplog.records) == 1  # they are drawn


def test_the_newest_run_is_the_one_that_trained_last_not_the_one_that_was_reported(
    trained: Path,
) -> None:
    other, log = trained.parent / "training_later", trained / "training_progress.txt"
    log.touch()
    shutil.copytree(trained, other)
    os.utime(log, (1, 1))
    (trained / "report.html").touch()  # its folder is the newest now
    assert TrainingDirectory.newest(trained.parent).path == other
