"""What to type next, after a run that has ended or was stopped."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from minimagen.cli.arguments import is_given
from minimagen.storage.directory import TrainingDirectory, read_imagen_config

MORE = ("--MINUTES", "5")


def typed(command: str, *words: str) -> str:
    """Return a command as one types it here: as a script of a clone, or of the package."""
    script = Path(sys.argv[0])
    name = f"{command}.py"
    by_script = script.suffix == ".py" and script.with_name(name).is_file()
    program = (
        ["python", str(script.with_name(name))] if by_script else ["python", "-m", "minimagen"]
    )
    return shlex.join([*program, *([] if by_script else [command]), *words])


def print_next(directory: TrainingDirectory, arguments: argparse.Namespace) -> None:
    """Print the commands that go on from a finished run, on rank 0."""
    if os.environ.get("RANK", "0") == "0":
        for purpose, command in _commands(directory, arguments):
            print(f"{purpose + ':':<9} {command}")


def _commands(
    directory: TrainingDirectory, arguments: argparse.Namespace
) -> Iterator[tuple[str, str]]:
    path = str(directory)
    if directory.samples_images:
        captions = directory.sample_captions.read_text("utf-8").splitlines()
        yield "sample", typed("inference", "-d", path, "-c", captions[0])
    chosen = _chosen(arguments) or _stages_only(directory)
    yield "continue", typed("train", "--RESTART_DIRECTORY", path, "--IN_PLACE", *chosen, *MORE)
    yield "report", typed("report", path)


def _chosen(arguments: argparse.Namespace) -> list[str]:
    """Return the flags that choose what is trained, as they were given."""
    given = [name for name in ("STAGES", "LEARNERS") if is_given(arguments, name)]
    values = [[f"--{name}", ",".join(map(str, getattr(arguments, name)))] for name in given]
    return [word for words in values for word in words]


def _stages_only(directory: TrainingDirectory) -> list[str]:
    """Return the flag that leaves out what stages were trained with: that stays as it is."""
    config = read_imagen_config(directory.parameters)
    kept = directory.samples_images and not directory.teacher.is_dir()
    if not config.first_stage or not kept:
        return []
    return ["--LEARNERS", ",".join(config.learner_names[config.first_stage :])]


def continuing(directory: Path, arguments: argparse.Namespace) -> str:
    """Return the command that continues a stopped run where it is."""
    words = ["--RESTART_DIRECTORY", str(directory), "--IN_PLACE", *_chosen(arguments)]
    if arguments.DEVICE != "auto":
        words += ["--DEVICE", arguments.DEVICE]
    return typed("train", *words, *(["--FSDP"] if arguments.FSDP else []))
