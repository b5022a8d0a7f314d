"""The command line itself: parsing, help, errors in one line.

Nothing here imports torch: ``--help`` and mistakes answer at once.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import TextIOWrapper
from typing import NoReturn

import minimagen
from minimagen.cli.options import CONFIGURED, IMG_SIDE_LEN, Option
from minimagen.errors import UserError

Groups = Mapping[str, Sequence[Option]]
"""Options by the heading that the help shows them under."""


class Parser(argparse.ArgumentParser):
    """A parser of options; its errors are UserErrors.

    Args:
        prog: What the user typed to start the program.
        description: What it does, one line.
        examples: Shown below the help.
        groups: What may be typed.
        positional: Name and help of each argument before the options.
    """

    def __init__(
        self, prog: str, description: str, examples: str, groups: Groups, **positional: str
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"examples:\n{examples}\n\n--version prints the version.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            usage=" ".join(["%(prog)s", *positional, "[options]"]),
        )
        self.options = [option for options in groups.values() for option in options]
        for name, text in positional.items():
            self.add_argument(name.lower(), metavar=name, help=text)
        for heading, options in groups.items():
            group = self.add_argument_group(heading)
            for option in options:
                group.add_argument(f"--{option.name}", f"-{option.short}", **option.keywords)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError with ``message``."""
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the values; an unknown option is an error that names the one that is meant."""
        names = {option.name for option in self.options}
        arguments, unknown = self.parse_known_args([_in_capitals(each, names) for each in argv])
        if unknown:
            hint = self._meant(unknown[0])
            raise UserError(f"unknown argument {unknown[0]!r}{hint} (see {self.prog} --help)")
        return arguments

    def _meant(self, given: str) -> str:
        names = {
            other.upper(): option.name
            for option in self.options
            for other in (option.short, *option.also)
        } | {option.name: option.name for option in self.options}
        key = given.partition("=")[0].lstrip("-").replace("-", "_").upper()
        nearest = [key] if key in names else difflib.get_close_matches(key, names, n=1)
        return f"; did you mean '--{names[nearest[0]]}'?" if nearest else ""


def _in_capitals(argument: str, names: Iterable[str]) -> str:
    """Return ``--batch-size=4`` and ``--batch_size=4`` as ``--BATCH_SIZE=4``."""
    option, equals, value = argument.partition("=")
    name = option[2:].replace("-", "_").upper()
    return f"--{name}{equals}{value}" if option[:2] == "--" and name in names else argument


def is_given(arguments: argparse.Namespace, name: str) -> bool:
    """Return whether ``--NAME`` was typed, for an option without a default of its own."""
    value = getattr(arguments, name)
    return value is not None and value is not False  # 0 is a value


def with_flags(message: str) -> str:
    """Return ``message`` with every `parameter` in back quotes as the flag that sets it.

    The library names parameters, as its callers know them; only here they become flags.
    """
    from minimagen.cli.inference import OPTIONS
    from minimagen.cli.train import RUN

    sampled = [option for group in OPTIONS.values() for option in group]
    options = [*sampled, *RUN, IMG_SIDE_LEN, *CONFIGURED.values()]
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
    # Threads that spin while they wait take the core from those they wait for: one busy process
    # then slows a training step eight-fold, with short spins twofold. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # Large tensors in pages of 2 MiB: a step mostly allocates, and each page is cleared by a fault.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
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


def _reader_has_ended() -> bool:
    """Return whether standard output is no longer read; what is left for it is then thrown away."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
