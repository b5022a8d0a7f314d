"""``report.html``: one page about a run, for a colleague; also while it is going on."""

from collections.abc import Iterator
from html import escape
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from minimagen.config.data import title_of, without_folders
from minimagen.evaluation import html
from minimagen.evaluation.charts import chart
from minimagen.evaluation.figures import read_sheets
from minimagen.evaluation.history import CURVES, History, newest_sheets, read_history
from minimagen.storage.directory import TrainingDirectory, read_parameter_values
from minimagen.storage.figures import (
    HEADINGS,
    Record,
    cells,
    fits,
    other_settings,
    read_record,
)

FILE = "report.html"
LOGARITHMIC = ("loss", "valid_loss")
LIMITS = (
    "Figures are of one run and of its data; another seed moves them by about their intervals.",
    "Distances depend on the network whose features they are taken in and on n: compare distances "
    "of one network and one n only. The bundled judges know drawn images; features of DINOv2 "
    "(the option FEATURES of evaluate) say more about photographs.",
    "A copy is found by its pixels at 8 x 8 and by features. Parts of images that are copied, and "
    "images that differ from all training images by style alone, are not found.",
)


GONE = "The figures are of weights that are not here any more: evaluate again."


def write_report(directory: TrainingDirectory, out: Path | None = None) -> Path:
    """Write ``report.html`` into ``out``, by default the directory itself; return its path.

    The evaluation shown is the one in ``out``.

    Raises:
        UserError: A file is damaged, or the page cannot be written.
    """
    out = out or directory.path
    name = directory.path.resolve().name
    return html.write_page(out / FILE, html.page(name, _parts(directory, out, name)))


def _parts(directory: TrainingDirectory, out: Path, name: str) -> Iterator[str]:
    history, record = read_history(directory), read_record(out)
    values = read_parameter_values(directory.parameters)
    yield f'<h1>{escape(name)}</h1><p class="soft">{escape(_subtitle(values, record))}</p>'
    if record is not None:
        for verdict in record.verdicts:
            yield html.note(verdict, verdict.startswith("MEMORIZED"))
    yield html.section("Run", html.table(["", "steps", "lowest validation loss"], _run(history)))
    evaluated = read_sheets(out) if record is not None else {}
    if record is not None:
        notes = other_than_now(directory, record)
        yield from (html.note(each, warns=each == GONE) for each in notes)
    titles = list(evaluated)
    first = [html.image(title, evaluated[title]) for title in titles[:1]]
    yield html.section("Images", *first)
    yield html.section("Figures", _figures(record))
    yield html.section("Curves", curves(history))
    rest = "".join(html.image(title, evaluated[title]) for title in titles[1:])
    yield html.section("More images", f'<div class="sheets">{rest}</div>' if rest else "")
    sheets = "".join(html.image(t, path) for t, path in newest_sheets(directory).items())
    yield html.section("Newest samples of the training", _wrapped(sheets, "grid"))
    yield html.section("Settings", settings(values))
    yield html.section("Limits", f"<ul>{''.join(f'<li>{escape(x)}</li>' for x in LIMITS)}</ul>")


def _subtitle(values: dict[str, Any], record: Record | None) -> str:
    sizes = " to ".join(
        f"{size[1]} x {size[0]}" if isinstance(size, list | tuple) else f"{size} x {size}"
        for size in values["imagen"].get("image_sizes", [])
    )
    data = values.get("data", {}).get("dataset", "data that it does not state")
    text = f"{sizes} px, trained on {title_of(str(data))}."
    if record is None:
        return f"{text} Not evaluated yet: python -m minimagen evaluate DIR"
    weights = "/".join(map(str, dict.fromkeys(record.weights))) or "unknown"
    return (
        f"{text} Evaluated {record.date} on {title_of(record.dataset)} ({record.split}), device "
        f"{record.device}, {weights} weights, features of {record.features}, image i has seed "
        f"{record.seed} + i."
    )


def other_than_now(directory: TrainingDirectory, record: Record) -> Iterator[str]:
    """Yield in which way the figures are not those of the directory as it is."""
    if others := other_settings(directory, record):
        yield f"The figures are of other settings: {others}."
    if record.model and not fits(directory, record):
        yield GONE


def _run(history: History) -> list[list[str]]:
    bests = history.bests
    return [
        [name, f"{step:,}", f"{bests[name]:.4f}" if name in bests else "not validated yet"]
        for name, step in history.steps.items()
    ]


def _figures(record: Record | None) -> str:
    if record is None:
        return ""
    rows: list[list[str]] = []
    for group, each in groupby(record.figures, key=attrgetter("group")):
        rows += [[group], *([row[0].removeprefix(f"{group}: "), *row[1:]] for row in cells(each))]
    return html.table(HEADINGS, rows)


def _wrapped(content: str, name: str) -> str:
    return f'<div class="{name}">{content}</div>' if content else ""


def curves(history: History) -> str:
    """Return a chart of every curve."""
    charts = [
        chart(title, history.curves[key], logarithmic=key in LOGARITHMIC)
        for key, title in CURVES.items()
        if key in history.curves
    ]
    return _wrapped("".join(charts), "grid")


def settings(values: dict[str, Any]) -> str:
    """Return every parameter, part by part, folded."""
    parts = []
    for name, content in values.items():
        rows = [
            [key, without_folders(value)]  # a page to send on
            for key, value in leaves(content)
        ]
        table = html.table(["parameter", "value"], rows)
        parts.append(f"<details><summary>{escape(name)}</summary>{table}</details>")
    return "".join(parts)


def leaves(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the text of every value in nested ones."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple) and any(isinstance(v, dict) for v in values):
        for i, value in enumerate(values):
            yield from leaves(value, f"{name}.{i}")
    else:
        yield name, str(values)
