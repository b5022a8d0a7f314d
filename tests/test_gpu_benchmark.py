"""``python -m benchmarks.gpu``: a line where there is no GPU, and all in small on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from benchmarks.gpu import __main__ as gpu  # noqa: E402
from benchmarks.gpu import step  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def rows(results: Path) -> list[dict]:
    return [json.loads(line) for line in (results / "gpu.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("command", [*gpu.COMMANDS])
def test_without_a_gpu_each_command_says_so_in_a_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([command]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "no CUDA device" in err


def test_a_step_is_measured_on_both_sides(tmp_path: Path) -> None:
    assert gpu.main(["step", "--tiny", "--results", str(tmp_path)]) == 0
    ours, peer, _, sampling = rows(tmp_path)
    for row in (ours, peer):
        assert row["images_per_second"] == pytest.approx(2 / row["step_seconds"])
        assert 0 < row["share_of_matmul"] < 1 and row["share_of_data_sheet"] is None
        assert row["flops_per_step"] > 2 * 10 * row["parameters"]
    assert sampling["timesteps"] > 1 and sampling["images_per_second"] > 0


def test_of_the_large_cascade_the_base_compiled_comes_first() -> None:
    first, second, *others = step.cases(tiny=False)
    assert (first["stage"], first["side"], first["mode"]) == (0, "ours", "compiled")
    assert (second["stage"], second["side"], second["mode"]) == (0, "diffusers", "compiled")
    assert {each["what"] for each in others} == {"step", "sampling"}


def test_a_case_without_time_left_is_skipped_with_its_reason() -> None:
    assert step._in_own_process({}, deadline=0.0) == {"skipped": "no time left"}


def test_quality_without_data_is_skipped_with_its_reason(tmp_path: Path) -> None:
    results = ["--results", str(tmp_path)]
    assert gpu.main(["quality", "--tiny", *results]) == 0
    assert gpu.main(["quality", "--tiny", "--data", str(tmp_path / "none"), *results]) == 0
    assert [row["skipped"][:9] for row in rows(tmp_path)] == ["no --data", "no folder"]


@pytest.mark.slow
def test_quality_trains_on_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(40):
        image = np.full((32, 32, 3), 6 * i, np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a gray square")
    asked = ["quality", "--tiny", "--data", str(folder), "--results", str(tmp_path)]
    assert gpu.main(asked) == 0
    (row,) = rows(tmp_path)
    assert [stage["steps"] for stage in row["stages"]] == [4, 4]
    assert all(stage["valid_loss"] > 0 for stage in row["stages"])
    assert Path(row["sheet"]).is_file()


@pytest.mark.slow
def test_the_tests_of_a_gpu_run_on_the_cpu_too() -> None:
    assert gpu.main(["tests", "--tiny"]) == 0
