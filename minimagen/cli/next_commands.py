"""What to type next, after a run that has ended or was stopped."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from minimagen.cli.arguments import is_given
from minimagen.storage.directory import TrainingDirectory

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


def print_next(directory: TrainingDirectory) -> None:
    """Print the commands that go on from a finished run, on rank 0."""
    if os.environ.get("RANK", "0") == "0":
        for purpose, command in _commands(directory):
            print(f"{purpose + ':':<9} {command}")


def _commands(directory: TrainingDirectory) -> Iterator[tuple[str, str]]:
    path = str(directory)
    if directory.samples_images:
        captions = directory.sample_captions.read_text("utf-8").splitlines()
        yield "sample", typed("inference", "-d", path, "-c", captions[0])
    yield "continue", typed("train", "--RESTART_DIRECTORY", path, "--IN_PLACE", *MORE)
    yield "report", typed("report", path)


def continuing(directory: Path, arguments: argparse.Namespace) -> str:
    """Return the command that continues a stopped run where it is."""
    words = ["--RESTART_DIRECTORY", str(directory), "--IN_PLACE"]
    for name in ("STAGES", "LEARNERS"):
        if is_given(arguments, name):
            words += [f"--{name}", ",".join(map(str, getattr(arguments, name)))]
    if arguments.DEVICE != "auto":
        words += ["--DEVICE", arguments.DEVICE]
    return typed("train", *words, *(["--FSDP"] if arguments.FSDP else []))
