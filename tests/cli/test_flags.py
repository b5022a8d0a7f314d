"""Flags: three spellings each, precedence, sources, and help at once."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minimagen.cli import evaluate, inference, train
from minimagen.cli.arguments import Flag, build_parser, parse

ROOT = Path(__file__).parents[2]
TESTING = ROOT / "parameters" / "testing"
DOORS = {"train": train.FLAGS, "inference": inference.FLAGS, "evaluate": evaluate.FLAGS}
EACH = [(door, flag) for door, flags in DOORS.items() for flag in flags]


def parsed(flags: tuple[Flag, ...], argv: list[str]) -> argparse.Namespace:
    return parse(build_parser("door.py", "", "", flags), flags, argv)


def example(flag: Flag) -> str:
    """A text that the flag takes."""
    if flag.choices:
        return flag.choices[-1]
    assert flag.kind is not None
    for text in ("7", "0.7", "ddim"):
        try:
            flag.kind(text)
            return text
        except argparse.ArgumentTypeError:
            continue
    raise AssertionError(f"no example for {flag.name}")


@pytest.mark.parametrize(("door", "flag"), EACH, ids=lambda x: getattr(x, "name", x))
def test_three_spellings_parse_alike(door: str, flag: Flag) -> None:
    given = [] if flag.kind is None else [example(flag)]
    dashed = "--" + flag.name.lower().replace("_", "-")
    spellings = [f"--{flag.name}", dashed, f"-{flag.short}"]
    values = [vars(parsed(DOORS[door], [spelling, *given])) for spelling in spellings]
    assert values[0] == values[1] == values[2]
    assert values[0][flag.name] not in (None, False)


@pytest.mark.parametrize("door", DOORS)
def test_no_two_flags_share_a_spelling(door: str) -> None:
    spellings = [spelling for flag in DOORS[door] for spelling in flag.spellings]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("door", DOORS)
def test_what_is_not_given_is_none(door: str) -> None:
    assert set(vars(parsed(DOORS[door], [])).values()) <= {None, False}


def settings(argv: list[str]) -> tuple[Any, dict[str, tuple[str, str]]]:
    """The configuration, and name -> (value, source) as --PRINT_CONFIG shows it."""
    settings = train.settings_of(parsed(train.FLAGS, argv))
    parameters = settings.parameters()
    rows = {}
    for line in settings.table(parameters).splitlines():
        name, _, rest = line.partition(" = ")
        value, _, source = rest.rpartition("  (")
        rows[name] = (value, source.removesuffix(")"))
    return parameters, rows


def folder(tmp_path: Path, training: str | None) -> Path:
    """A parameters directory without data.json, and with ``training`` as its training.json."""
    for name in ("imagen", "unet_0", "unet_1"):
        (tmp_path / f"{name}.json").write_text((TESTING / f"{name}.json").read_text())
    if training is not None:
        (tmp_path / "training.json").write_text(training)
    return tmp_path


def test_command_line_over_directory_over_preset(tmp_path: Path) -> None:
    path = folder(tmp_path, '{"batch_size": 6, "steps": 9, "stages": [{"optim_lr": 0.5}]}')
    parameters, rows = settings(["-p", str(path), "--BATCH_SIZE", "2", "-t", "25"])
    assert rows["training.batch_size"] == ("2", "--BATCH_SIZE")
    assert rows["training.steps"] == ("9", str(path))
    assert rows["imagen.stages.0.sampling.timesteps"] == ("25", "--TIMESTEPS")
    assert rows["imagen.stages.1.sampling.timesteps"] == ("25", "--TIMESTEPS")
    assert rows["imagen.stages.1.unet.dim"] == ("16", str(path))
    assert rows["data.dataset"] == ("'shapes'", "the demo preset")
    assert rows["training.chckpt_num"] == ("500", "default")
    assert [stage.optim_lr for stage in parameters.training.stages] == [0.5, 0.5]
    assert parameters.training.batch_size == 2


def test_a_directory_without_training_settings_takes_the_presets(tmp_path: Path) -> None:
    parameters, _ = settings(["-p", str(folder(tmp_path, None))])
    demo, _ = settings([])
    assert parameters.training.batch_size == demo.training.batch_size
    assert len(parameters.training.stages) == len(parameters.imagen.stages)


@pytest.mark.parametrize(
    ("flag", "value", "steps", "epochs", "minutes"),
    [("--EPOCHS", "3", None, 3, None), ("--STEPS", "8", 8, None, None)]
    + [("--MINUTES", "1.5", None, None, 1.5)],
)
def test_a_length_replaces_the_presets(
    flag: str, value: str, steps: int | None, epochs: int | None, minutes: float | None
) -> None:
    training = settings([flag, value])[0].training
    assert (training.steps, training.epochs, training.minutes) == (steps, epochs, minutes)


def test_testing_shortens_and_explicit_flags_win() -> None:
    short, rows = settings(["--TESTING"])
    assert short.imagen.image_sizes == ((16, 16), (32, 32))
    assert short.training.steps <= 10
    assert rows["training.steps"][1] == "--TESTING"
    longer, rows = settings(["--TESTING", "--STEPS", "50", "--VALID_NUM", "99"])
    assert (longer.training.steps, longer.data.valid_num) == (50, 99)
    assert rows["training.steps"][1] == "--STEPS"


def test_testing_keeps_the_cascade_of_a_directory() -> None:
    paper = ROOT / "parameters" / "imagen_64_256_1024"
    parameters, _ = settings(["--TESTING", "-p", str(paper)])
    assert parameters.imagen.image_sizes[-1] == (1024, 1024)
    assert parameters.training.steps <= 10


def test_the_side_scales_every_stage() -> None:
    parameters, rows = settings(["--TESTING", "--IMG_SIDE_LEN", "64"])
    assert parameters.imagen.image_sizes == ((32, 32), (64, 64))
    assert rows["imagen.image_sizes"][1] == "--IMG_SIDE_LEN"


def test_print_config_names_every_value_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.entry(["--TESTING", "--PRINT_CONFIG", "--OPTIM_LR", "0.25"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "training.stages.1.optim_lr = 0.25  (--OPTIM_LR)" in lines
    assert "imagen.stages.0.unet.dim = 16  (the testing preset)" in lines
    assert "training.batch_size = 8  (the testing preset)" in lines
    assert all(" = " in line and line.endswith(")") for line in lines)
    assert not list(tmp_path.iterdir())


def test_help_and_mistakes_come_without_heavy_imports(tmp_path: Path) -> None:
    code = """
import contextlib, io, sys
from minimagen.__main__ import main
for argv in (["train", "--help"], ["inference", "--help"], ["demo", "--help"],
             ["evaluate", "--help"], ["data", "--help"], ["train", "--BATCHSIZE", "4"],
             ["train", "--BATCH_SIZE", "0"], ["train", "--TESTING", "--IMG_SIDE_LEN", "30"],
             ["inference", "--CAPTION", "x"], ["train", "--TESTING", "--T5_NAME", "t5_mimi"],
             ["train", "--TESTING", "--PRINT_CONFIG"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            result = main(argv)
        except SystemExit as stop:
            result = stop.code or 0
    print(*argv, result, sorted({"torch", "transformers", "datasets", "numpy"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    endings = [line.split(" ", 1)[1][-4:] for line in result.stdout.splitlines()]
    assert endings == ["0 []"] * 5 + ["2 []"] * 5 + ["0 []"], result.stdout
