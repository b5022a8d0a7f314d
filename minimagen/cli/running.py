"""Run a command: what ends it early is one line, in which parameters are flags."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper

import minimagen
from minimagen.cli.flags import INFERENCE, TRAIN
from minimagen.cli.options import CONFIGURED, IMG_SIDE_LEN
from minimagen.errors import UserError

ENVIRONMENT = {
    # Threads that spin while they wait take the core from those they wait for: one busy process
    # then slows a training step eight-fold, with short spins twofold.
    "GOMP_SPINCOUNT": "5000",
    # Large tensors in pages of 2 MiB: a step mostly allocates, and each page is cleared by a fault.
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""What a command sets where the user has not; torch reads it when it is imported."""


def with_flags(message: str) -> str:
    """Return ``message`` with every `parameter` in back quotes as the flag that sets it.

    The library names parameters, as its callers know them; only here they become flags.
    """
    sampled = [option for group in INFERENCE.values() for option in group]
    options = [*sampled, *TRAIN, IMG_SIDE_LEN, *CONFIGURED.values()]
    flags = {name.lower(): f"--{o.name}" for o in options for name in (*o.also, o.name)}
    return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[1]), message)


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command; what ends it early becomes one line on standard error.

    Of several ranks only rank 0 prints an error: all ranks raise the same one.

    Returns:
        The command's exit code, 2 after a user's mistake or where the disk or the system says no
        (full, not allowed, not there), 130 after Ctrl-C, 141 where the reader of its output has
        ended (``| head``).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what the console cannot show is printed escaped
            stream.reconfigure(errors="backslashreplace")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    typed = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            if "--version" in map(str.lower, typed):
                print(f"minimagen-cascade {minimagen.__version__}")
                return 0
            return main(typed)
        finally:
            sys.stdout.flush()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {with_flags(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_ended():
            return 141
        why = " ".join((error.strerror or str(error) or type(error).__name__).split())
        where = f": {error.filename}" if error.filename is not None else ""
        print(f"error: {why}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_of_several(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command that may be one of several processes; one that fails leaves at once.

    Ending the process group would wait for others, which wait for this one.
    """
    several, code = int(os.environ.get("WORLD_SIZE", "1")) > 1, 1
    try:
        code = run(main, argv)
    except Exception:
        if not several:
            raise
        traceback.print_exc()
    if several and code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _reader_has_ended() -> bool:
    """Return whether standard output is no longer read; what is left for it is then thrown away."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
