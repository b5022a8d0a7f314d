"""Flags: three spellings each, precedence, sources, and help at once."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import minimagen
from minimagen.__main__ import main as run_command
from minimagen.cli import compare, data, evaluate, inference, plot, report, train
from minimagen.cli.arguments import Option, Parser
from minimagen.cli.options import CONFIGURED
from minimagen.errors import UserError

ROOT = Path(__file__).parents[2]
TESTING = ROOT / "parameters" / "testing"
COMMANDS = {
    "train": train.options(), "inference": inference.INFERENCE, "evaluate": evaluate.OPTIONS,
    "report": report.OPTIONS, "compare": compare.OPTIONS, "plot": plot.OPTIONS,
    **{name: {"flags": action.options} for name, action in data.ACTIONS.items()},
}  # fmt: skip
OPTIONS = {
    command: [o for group in groups.values() for o in group] for command, groups in COMMANDS.items()
}
EACH = [(command, option) for command, options in OPTIONS.items() for option in options]


def parsed(command: str, argv: list[str]) -> argparse.Namespace:
    return Parser("command.py", "", "", COMMANDS[command]).parse(argv)


def example(option: Option) -> str:
    """A text that the option takes."""
    for text in (
        "7",
        "0.7",
        "ddim",
        "cpu",
        "bf16",
        "random",
        "wandb",
        "tune",
        "scenes",
        "muon",
        "static",
        "trailing",
        "steps=1,2",
    ):
        try:
            option.parse(text)
            return text
        except UserError:
            continue
    raise AssertionError(f"no example for {option.name}")


@pytest.mark.parametrize(("command", "option"), EACH, ids=lambda x: getattr(x, "name", x))
def test_all_spellings_parse_alike(command: str, option: Option) -> None:
    given = [] if option.is_switch else [example(option)]
    lower = option.name.lower()
    spellings = [
        f"--{option.name}",
        f"--{lower}",
        f"--{lower.replace('_', '-')}",
        f"-{option.short}",
    ]
    values = [vars(parsed(command, [spelling, *given])) for spelling in spellings]
    if given:
        values += [vars(parsed(command, [f"{spelling}={given[0]}"])) for spelling in spellings[:3]]
    assert all(value == values[0] for value in values)
    assert values[0][option.name] not in (None, False, option.default)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_two_options_share_a_spelling(command: str) -> None:
    for spellings in ([o.name for o in OPTIONS[command]], [o.short for o in OPTIONS[command]]):
        assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_with_its_default(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(command, ["--help"])
    text = capsys.readouterr().out
    assert all(f"{heading}:" in text for heading in COMMANDS[command])
    shown = text.split("\n  --")[1:]
    assert [part.split()[0].rstrip(",") for part in shown] == [o.name for o in OPTIONS[command]]
    for part, option in zip(shown, OPTIONS[command], strict=True):
        default = part.partition("\n\n")[0].rpartition("[")[2].removesuffix("]")
        assert default and (option.default in (None, False) or default == str(option.default))


def test_what_is_not_given_to_train_is_none() -> None:
    given = vars(parsed("train", []))
    assert {name: v for name, v in given.items() if v not in (None, False)} == {"DEVICE": "auto"}


def test_a_flag_sets_the_field_that_it_was_made_from() -> None:
    values = {"BATCH_SIZE": "6", "TIMESTEPS": "3", "OPTIM_LR": "0.5,0.25", "CROP": "random",
              "T5_NAME": "t5_small", "GUIDANCE_SCALE": "2,3", "DATASET": "a,b"}  # fmt: skip
    argv = [part for name, value in values.items() for part in (f"--{name}", value)]
    parameters, rows = settings(["--TESTING", "--FLIP", *argv])
    assert parameters.training.batch_size == 6
    assert parameters.data.flip and parameters.data.dataset == "a,b"
    assert [stage.optim_lr for stage in parameters.training.learners] == [0.5, 0.25]
    assert [stage.sampling.guidance_scale for stage in parameters.imagen.stages] == [2.0, 3.0]
    for name in (*values, "FLIP"):
        places = [".".join(map(str, CONFIGURED[name].path)).replace("*", i) for i in "01"]
        assert all(rows[place][1] == f"--{name}" for place in places)


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("train", "--lr", "OPTIM_LR"),
        ("train", "--learning-rate", "OPTIM_LR"),
        ("train", "--resume", "RESTART_DIRECTORY"),
        ("train", "--text_encoder_name", "T5_NAME"),
        ("train", "--epoch=3", "EPOCHS"),
        ("train", "--image_size", "IMG_SIDE_LEN"),
        ("inference", "--prompt", "CAPTIONS"),
        ("inference", "--cfg", "GUIDANCE_SCALE"),
        ("inference", "--percentile", "DYNAMIC_THRESHOLDING_PERCENTILE"),
        ("inference", "BATCH_SIZE", "BATCH_SIZE"),
        ("evaluate", "--t", "TIMESTEPS"),
        ("train", "--output_dir", "OUTPUT"),
        ("train", "--num_train_epochs", "EPOCHS"),
        ("train", "--max_train_steps", "STEPS"),
        ("train", "--width", "IMG_SIDE_LEN"),
        ("train", "--gradient_accumulation_steps", "ACCUM_ITER"),
        ("train", "--mixed_precision", "PRECISION"),
        ("train", "--resume_from_checkpoint", "RESTART_DIRECTORY"),
        ("train", "--validation_prompts", "SAMPLE_CAPTIONS"),
        ("train", "--checkpoints_total_limit", "KEEP_CHECKPOINTS"),
        ("inference", "--steps", "TIMESTEPS"),
        ("inference", "--num_inference_steps", "TIMESTEPS"),
        ("inference", "--negative_prompt", "NEGATIVE"),
        ("inference", "--cfg_scale", "GUIDANCE_SCALE"),
        ("inference", "--num_images_per_prompt", "IMAGES_PER_CAPTION"),
        ("inference", "--width", "ASPECT_RATIO"),
    ],
)
def test_another_name_of_an_option_is_answered_with_the_option(
    command: str, typed: str, meant: str
) -> None:
    with pytest.raises(UserError, match=f"did you mean '--{meant}'"):
        parsed(command, [typed, "3"])


@pytest.mark.parametrize(
    ("argv", "directories", "number"),
    [
        (["a"], ["a"], 3),
        (["a", "-n", "5"], ["a"], 5),
        (["-n", "5", "a"], ["a"], 5),
        (["-d", "a"], ["a"], 3),
        (["a", "-n", "5", "b"], ["a", "b"], 5),
        (["-d", "a", "b"], ["a", "b"], 3),
        ([], None, 3),
    ],
)
def test_a_directory_may_stand_anywhere_among_the_flags(
    argv: list[str], directories: list[str] | None, number: int
) -> None:
    directory = Option("TRAINING_DIRECTORY", "d", "one", Path)
    several = Option("TRAINING_DIRECTORIES", "d", "two or more", Path, several=True)
    count = Option("COUNT", "n", "how many", int, 3)
    paths = None if directories is None else [Path(each) for each in directories]
    found = Parser("command", "", "", {"flags": (several, count)}).parse(argv, bare=several)
    assert (found.TRAINING_DIRECTORIES, found.COUNT) == (paths, number)
    one = Parser("command", "", "", {"flags": (directory, count)})
    if paths is not None and len(paths) > 1:
        with pytest.raises(UserError, match="unknown argument 'b'"):
            one.parse(argv, bare=directory)
    else:
        assert one.parse(argv, bare=directory).TRAINING_DIRECTORY == (
            None if paths is None else paths[0]
        )


def test_what_follows_a_mistaken_flag_is_no_directory() -> None:
    directory = Option("TRAINING_DIRECTORY", "d", "one", Path)
    with pytest.raises(UserError, match="unknown argument '--COUMT'"):
        Parser("command", "", "", {"flags": (directory,)}).parse(["--COUMT", "5"], bare=directory)


@pytest.mark.parametrize("command", [["train"], ["inference"], ["demo"], ["data", "check"], []])
def test_every_command_prints_the_version(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*command, "--version"]) == 0
    assert capsys.readouterr().out == f"minimagen-cascade {minimagen.__version__}\n"


def test_sheets_take_the_captions_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a red  star\n\na blue moon\n", "utf-8")
    parameters, rows = settings(["--SAMPLE_CAPTIONS", str(file), "--SAMPLE_NUM", "70"])
    assert parameters.training.sample_captions == ("a red star", "a blue moon")
    assert parameters.training.sample_num == 70
    assert rows["training.sample_captions"][1] == "--SAMPLE_CAPTIONS"
    file.write_text("\n \n")
    with pytest.raises(UserError, match=r"captions\.txt has no captions"):
        settings(["--SAMPLE_CAPTIONS", str(file)])


def test_each_learner_has_its_own_steps() -> None:
    assert settings(["--STEPS", "700,150"])[0].training.steps == (700, 150)


def test_zero_is_a_value_as_any_other() -> None:
    parameters, rows = settings(["--NUM_WORKERS", "0", "--SEED", "0", "--AUG_LEVEL", "0"])
    assert parameters.training.num_workers == 0
    assert rows["training.num_workers"] == ("0", "--NUM_WORKERS")
    assert rows["training.seed"] == ("0", "--SEED")
    assert parameters.imagen.stages[1].sampling.aug_level == 0.0


def settings(argv: list[str]) -> tuple[Any, dict[str, tuple[str, str]]]:
    """The configuration, and name -> (value, source) as --PRINT_CONFIG shows it."""
    settings = train.settings_of(train.parse_flags(argv))
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
    path = folder(tmp_path, '{"batch_size": 6, "steps": 9, "learners": [{"optim_lr": 0.5}]}')
    parameters, rows = settings(["-p", str(path), "--BATCH_SIZE", "2", "-t", "25"])
    assert rows["training.batch_size"] == ("2", "--BATCH_SIZE")
    assert rows["training.steps"] == ("9", str(path))
    assert rows["imagen.stages.0.sampling.timesteps"] == ("25", "--TIMESTEPS")
    assert rows["imagen.stages.1.sampling.timesteps"] == ("25", "--TIMESTEPS")
    assert rows["imagen.stages.1.unet.dim"] == ("16", str(path))
    assert rows["data.dataset"] == ("'shapes'", "the demo preset")
    assert rows["training.chckpt_num"] == ("500", "default")
    assert [stage.optim_lr for stage in parameters.training.learners] == [0.5, 0.5]
    assert parameters.training.batch_size == 2


def test_a_directory_without_training_settings_takes_the_presets(tmp_path: Path) -> None:
    parameters, _ = settings(["-p", str(folder(tmp_path, None))])
    demo, _ = settings([])
    assert parameters.training.batch_size == demo.training.batch_size
    assert len(parameters.training.learners) == len(parameters.imagen.stages)


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
    assert "training.learners.1.optim_lr = 0.25  (--OPTIM_LR)" in lines
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
