"""Tables of text."""

from collections.abc import Callable, Sequence


def table(rows: Sequence[Sequence[str]], justify: Callable[[str, int], str] = str.ljust) -> str:
    """Return rows as lines of text: ``justify`` places the cells of all columns but the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([name.ljust(widths[0]), *map(justify, cells, widths[1:])] for name, *cells in rows)
    return "\n".join(map("  ".join, lines))
