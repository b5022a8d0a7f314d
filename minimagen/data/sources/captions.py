"""Which column holds the captions, and what its values mean."""

from collections.abc import Collection
from typing import Any

from minimagen.errors import UserError, did_you_mean

DEFAULT = "text"
ALSO = ("caption", "captions")  # taken where the default column is not there


def caption_column(columns: Collection[str], wanted: str, where: str) -> str:
    """Return the name of the caption column among ``columns``.

    Args:
        columns: the names that are there.
        wanted: what the user asked for; "text", the default, also finds caption and captions.
        where: what a message calls the table.

    Raises:
        UserError: it is not there.
    """
    if wanted in columns:
        return wanted
    others = [name for name in ALSO if name in columns]
    if wanted == DEFAULT and others:
        return others[0]
    names = ", ".join(map(str, columns))
    raise UserError(
        f"{where} has no column {wanted!r} among {names}{did_you_mean(wanted, columns)} "
        "(`caption_column` names it)"
    )


def captions_of(value: Any) -> tuple[str, ...] | None:
    """Return a cell's captions without blank ones; None if it holds neither text nor texts.

    Each is one line with single spaces between its words: lists of captions, one per line, are
    written beside images.
    """
    if value is None or value != value:  # not a number: an empty cell, as pandas writes it
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return None
    return tuple(" ".join(text.split()) for text in texts if text.strip())
