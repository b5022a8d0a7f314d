"""Flags in three spellings (``--BATCH_SIZE``, ``--batch-size``, ``-b``), errors in one line.

Nothing here imports torch: ``--help`` and mistakes answer at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from minimagen.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Flag:
    """One flag; ``kind`` turns its text into a value, None makes it a switch."""

    name: str
    short: str | None
    kind: Callable[[str], Any] | None
    help: str
    choices: tuple[str, ...] | None = None

    @property
    def spellings(self) -> list[str]:
        """Return ``--NAME``, ``--name`` with dashes, and the short form."""
        long = [f"--{self.name}", f"--{self.name.lower().replace('_', '-')}"]
        return long + ([f"-{self.short}"] if self.short else [])


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError with ``message``."""
        raise UserError(f"{message} (see {self.prog} --help)")


def build_parser(prog: str, description: str, examples: str, flags: Sequence[Flag]) -> Parser:
    """Return a parser for ``flags``; flags that are not given are None (switches: False)."""
    parser = Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag in flags:
        common: dict[str, Any] = {"dest": flag.name, "help": flag.help}
        if flag.kind is None:
            parser.add_argument(*flag.spellings, action="store_true", **common)
        else:
            metavar = None if flag.choices else flag.name
            common |= {"type": flag.kind, "choices": flag.choices, "metavar": metavar}
            parser.add_argument(*flag.spellings, **common)
    return parser


def parse(parser: Parser, flags: Sequence[Flag], argv: Sequence[str]) -> argparse.Namespace:
    """Parse ``argv``; an unknown flag is an error that names the nearest valid one."""
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        spellings = [spelling for flag in flags for spelling in flag.spellings]
        given = unknown[0].partition("=")[0]
        hint = did_you_mean(given, spellings) or did_you_mean(given.upper(), spellings)
        raise UserError(f"unknown argument {unknown[0]!r}{hint} (see {parser.prog} --help)")
    return arguments


def positive_int(text: str) -> int:
    """Return a whole number >= 1."""
    return _number(text, int, lambda n: n >= 1, "a whole number of at least 1")


def natural(text: str) -> int:
    """Return a whole number >= 0."""
    return _number(text, int, lambda n: n >= 0, "a whole number of at least 0")


def positive(text: str) -> float:
    """Return a finite number > 0."""
    return _number(text, float, lambda x: 0 < x < float("inf"), "a number above 0")


def at_least_zero(text: str) -> float:
    """Return a finite number >= 0."""
    return _number(text, float, lambda x: 0 <= x < float("inf"), "a number of at least 0")


def share(text: str) -> float:
    """Return a number strictly between 0 and 1."""
    return _number(text, float, lambda x: 0 < x < 1, "a number between 0 and 1")


def level(text: str) -> float:
    """Return a number from 0 to 1."""
    return _number(text, float, lambda x: 0 <= x <= 1, "a number from 0 to 1")


def several(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser of one value, or of one per stage with commas between them."""

    def parse_several(text: str) -> Any:
        values = tuple(kind(part.strip()) for part in text.split(","))
        return values[0] if len(values) == 1 else values

    return parse_several


def integers(text: str) -> tuple[int, ...]:
    """Return whole numbers >= 0 with commas between them."""
    return tuple(natural(part.strip()) for part in text.split(","))


def _number(text: str, kind: type, valid: Callable[[Any], bool], wanted: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command; what ends it early becomes one line on standard error.

    Of several processes the first one tells it: the others have the same, or have told it theirs.
    The last net: what reads and writes files says itself what was lost and what to do.

    Returns:
        The command's exit code, 2 after a user's mistake or where the disk or the system says no
        (full, not allowed, not there), 130 after Ctrl-C.
    """
    # Threads that spin while they wait take the core from those they wait for: one busy neighbour
    # then slows a training step eight-fold, with short spins twofold. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        return main(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        why = " ".join((error.strerror or str(error) or type(error).__name__).split())
        where = f": {error.filename}" if error.filename is not None else ""
        print(f"error: {why}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
