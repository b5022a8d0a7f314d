"""``environment.json``: in what a training directory was made, one entry for each session."""

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import minimagen
from minimagen.checked import Config
from minimagen.storage.files import locked, read_json, write_json

LONGEST_WAIT = 10.0  # s; another job writes in a fraction of that
HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s'\"]+")


class Session(Config):
    """One start of ``train``, or one resume."""

    time: str
    """When it began, in UTC."""
    minimagen: str
    """Version of this program."""
    commit: str | None
    """Its git commit, with ``-dirty`` where files were changed; null where it is installed."""
    python: str
    """Version of Python."""
    torch: str
    """Version of PyTorch."""
    transformers: str
    """Version of transformers."""
    system: str
    """Operating system and kind of processor."""
    device: str
    """Where the networks were trained."""
    precision: str
    """Arithmetic of the networks, resolved: fp32 or bf16."""
    world_size: int
    """Ranks that trained together."""
    command: str
    """What was typed, home directories as ``~``; of a script only its name."""


class Environment(Config):
    """The sessions of a training directory, the oldest one first."""

    sessions: tuple[Session, ...] = ()
    """A resumed run adds one."""


def session(device: str, precision: str, world_size: int) -> Session:
    """Return the one that begins now, in this process."""
    return Session(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        minimagen=minimagen.__version__,
        commit=_commit(),
        python=platform.python_version(),
        torch=_version("torch"),
        transformers=_version("transformers"),
        system=f"{platform.system()} {platform.machine()}",
        device=device,
        precision=precision,
        world_size=world_size,
        command=command_line(sys.argv),
    )


def add_session(path: Path, now: Session) -> None:
    """Write ``now`` after the sessions that the file has; jobs of one directory take turns."""
    folder = path.parent / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".environment", LONGEST_WAIT):
        before = Environment()
        if path.is_file():
            before = Environment.read(read_json(path), str(path))
        sessions = Environment(sessions=(*before.sessions, now))
        write_json(path, sessions)


def command_line(argv: Sequence[str]) -> str:
    """Return ``argv`` as one types it, without names of users."""
    words = [Path(argv[0]).name, *argv[1:]]
    home = str(Path.home())
    private = (word.replace(home, "~") if len(home) > 1 else word for word in words)
    return shlex.join(HOME.sub("~", word) for word in private)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    clone = Path(__file__).parents[2]
    if not (clone / ".git").exists():
        return None
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            asked, cwd=clone, env=quiet, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
