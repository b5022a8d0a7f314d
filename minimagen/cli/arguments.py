"""The command line itself: options, parsing, help.

Nothing here imports torch: ``--help`` and mistakes answer at once.
"""

import argparse
import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from minimagen.errors import UserError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: ``BATCH_SIZE`` is typed ``--BATCH_SIZE``, ``--batch-size`` or ``--batch_size``.
        short: Its short form, without the dash.
        help: What it is.
        type: Annotation that the value is checked against; bool makes a switch, a tuple takes
            values with commas between them.
        default: Its value where it is not given.
        shown: What the help shows as the default, instead of ``default``.
        path: Of the configuration value that it sets; ``"*"`` stands for every stage.
        also: Other names of it, in Python or in other programs; for hints.
        alone: Its value where it is given without one; None where that is an error.
        several: Whether it takes several values, with spaces between them.
    """

    name: str
    short: str
    help: str
    type: Any = str
    default: Any = None
    shown: str | None = None
    path: KeyPath = ()
    also: tuple[str, ...] = ()
    alone: Any = None
    several: bool = False

    but = dataclasses.replace

    @property
    def is_switch(self) -> bool:
        """Return whether it takes no value."""
        return _plain(self.type) is bool

    @property
    def keywords(self) -> dict[str, Any]:
        """Return what ``add_argument`` takes beside the names."""
        default = self.shown or shown(bool(self.default) if self.is_switch else self.default)
        common = {"dest": self.name, "help": f"{self.help} [{default}]".replace("%", "%%")}
        if self.is_switch:
            return common | {"action": "store_true"}
        kind = _plain(self.type)
        letters = {int: "N", float: "X", Path: "PATH"}
        values = f"{{{','.join(get_args(kind))}}}" if get_args(kind) else letters.get(kind, "TEXT")
        if self.several:
            common |= {"nargs": "+"}
        if self.alone is not None:
            common |= {"nargs": "?", "const": self.alone}
        return common | {"metavar": values, "default": self.default, "type": self.parse}

    def parse(self, text: str) -> Any:
        """Return the value of ``text``.

        Raises:
            UserError: It is not valid; the message says what is.
        """
        parts = [part.strip() for part in text.split(",")]
        is_list = get_origin(self.type) is tuple or len(parts) > 1
        value = parts if is_list and _takes_several(self.type) else text
        try:
            adapter = TypeAdapter(self.type, config=ConfigDict(allow_inf_nan=False))
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[-1 if isinstance(value, list) else 0]
            message = first["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
            given = first["input"]
            raise UserError(f"--{self.name} {message}, given {given!r}") from None


def _takes_several(kind: Any) -> bool:
    return get_origin(kind) is tuple or any(map(_takes_several, get_args(kind)))


def _plain(kind: Any) -> Any:
    """Return the type of one value: without metadata, alternatives and tuples."""
    return kind if get_origin(kind) in (None, Literal) else _plain(get_args(kind)[0])


def shown(value: Any) -> str:
    """Return a value as the help shows it."""
    if isinstance(value, bool | None):
        return {True: "on", False: "off", None: "none"}[value]
    return ",".join(map(shown, value)) if isinstance(value, tuple | list) else str(value)


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

    def parse(self, argv: Sequence[str], bare: Option | None = None) -> argparse.Namespace:
        """Return the values; an unknown option is an error that names the one that is meant.

        What is typed without a flag, anywhere, are values of the option ``bare``, if there is one.
        """
        names = {option.name for option in self.options}
        arguments, unknown = self.parse_known_args([_in_capitals(each, names) for each in argv])
        unknown = _without_bare(bare, arguments, unknown)
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


def _without_bare(
    bare: Option | None, arguments: argparse.Namespace, unknown: list[str]
) -> list[str]:
    """Set the option ``bare`` to what is left over; return what is left then.

    Nothing is taken beside a flag that is not known: it may be the flag's value.
    """
    flagged = any(each.startswith("-") for each in unknown)
    if bare is None or not unknown or flagged or getattr(arguments, bare.name) is not None:
        return unknown
    values = [bare.parse(each) for each in unknown]
    setattr(arguments, bare.name, values if bare.several else values[0])
    return [] if bare.several else unknown[1:]


def _in_capitals(argument: str, names: Iterable[str]) -> str:
    """Return ``--batch-size=4`` and ``--batch_size=4`` as ``--BATCH_SIZE=4``."""
    option, equals, value = argument.partition("=")
    name = option[2:].replace("-", "_").upper()
    return f"--{name}{equals}{value}" if option[:2] == "--" and name in names else argument


def is_given(arguments: argparse.Namespace, name: str) -> bool:
    """Return whether ``--NAME`` was typed, for an option without a default of its own."""
    value = getattr(arguments, name)
    return value is not None and value is not False  # 0 is a value
