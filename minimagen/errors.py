"""What goes wrong because of what the user gave, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A user's mistake: what was given, what is valid, what to type next.

    The command line prints the message as one line and exits with code 2; a library user sees an
    ordinary exception.
    """


class Stopped(Exception):
    """Sampling was stopped by its callback. Batches that were finished before are kept."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"`` for the valid name nearest to ``given``, or ``""``."""
    nearest = difflib.get_close_matches(given, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
