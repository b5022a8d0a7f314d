"""`data check`: what is wrong with the data is counted and named, and the exit code says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minimagen.__main__ import main
from minimagen.data.check import check
from minimagen.data.open import load_dataset
from minimagen.errors import UserError
from minimagen.text.encoding import TokenReport


def _folder(path: Path) -> Path:
    """Ten good images: one of another kind, one animated, one twice, one with two captions."""
    path.mkdir()
    rows: list[dict[str, Any]] = []
    for i in range(10):
        file = path / f"{i}.{'gif' if i == 8 else 'png'}"
        mode = "RGBA" if i == 7 else "RGB"
        image = Image.new(mode, (20 + 4 * i, 40), (10 * i if i != 1 else 0, 0, 0))
        frames = [Image.new("RGB", image.size, "red")] if i == 8 else []
        image.save(file, **({"save_all": True, "append_images": frames} if frames else {}))
        rows.append({"file_name": file.name, "text": "a red star" if i else ["one", "two words"]})
    (path / "1.png").write_bytes((path / "2.png").read_bytes())
    rows[3]["text"] = "star " * 70
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_good_folder_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _folder(tmp_path / "good")
    assert main(["data", "check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "10 images, 11 captions" in out
    assert "sizes: 20 x 40 to 56 x 40" in out
    assert "8 PNG RGB, 1 PNG RGBA, 1 GIF P animated" in out
    assert "duplicates (the same file again): 1" in out
    assert "longer than 64, so cut: 1" in out
    assert out.endswith("no problems\n")


def test_problems_are_named_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path / "bad")
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[: len(whole) // 2])
    (folder / "5.png").write_text("<html>not found</html>")
    assert main(["data", "check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM" in out and "4.png" in out and "5.png: not an image" in out
    assert out.endswith("2 problems\n")
    assert main(["data", "check", str(folder), "--IMG_SIDE_LEN", "32"]) == 1
    out = capsys.readouterr().out
    assert "smaller than 32 px: 3" in out and out.endswith("5 problems\n")


def test_images_of_the_validation_set_that_are_trained_on_are_found(
    tmp_path: Path, text_encoder: Any
) -> None:
    _folder(tmp_path / "train")
    _folder(tmp_path / "validation")
    training, validation = check(load_dataset(tmp_path), text_encoder, None)
    assert (training.duplicates, validation.duplicates) == (1, 10)


def test_captions_that_the_encoder_does_not_know_are_one_problem(
    tmp_path: Path, text_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folder(tmp_path / "data")

    def inspect(captions: list[str]) -> list[TokenReport]:
        return [TokenReport(3, caption == "a red star") for caption in captions]

    monkeypatch.setattr(text_encoder, "inspect", inspect)
    (report,) = check(load_dataset(tmp_path / "data"), text_encoder, None)
    (problem,) = report.problems
    assert "8 of 11 captions are unknown to the encoder hash" in problem and "t5_mini" in problem


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text_encoder: Any
) -> None:
    assert main(["data", "chekc", "x"]) == 2
    assert "did you mean 'check'" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "missing")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["data"]) == 0
    with pytest.raises(UserError, match="nothing to check"):
        check(load_dataset("shapes"), text_encoder, None)
