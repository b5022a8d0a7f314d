"""Several runs side by side: what differs in their parameters, their figures, curves and sheets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from minimagen.evaluation import html
from minimagen.evaluation.charts import chart
from minimagen.evaluation.figures import read_sheets
from minimagen.evaluation.history import CURVES, History, newest_sheets, read_history
from minimagen.evaluation.report import LOGARITHMIC, leaves, other_than_now
from minimagen.storage.directory import TrainingDirectory, read_parameter_values
from minimagen.storage.figures import Record, cells, read_record

MISSING = "-"


@dataclass(frozen=True)
class Run:
    """What is compared of a training directory.

    Attributes:
        name: Of the directory; of several with one name the path.
        directory: Where it is.
        parameters: Every value by its dotted name.
        history: Its curves.
        record: Its evaluation, if there is one.
    """

    name: str
    directory: TrainingDirectory
    parameters: dict[str, str]
    history: History
    record: Record | None


def read_runs(directories: Sequence[TrainingDirectory]) -> list[Run]:
    """Return what is compared of some runs."""
    names = [directory.path.resolve().name for directory in directories]
    if len({*names}) < len(names):
        names = [str(directory) for directory in directories]
    return [
        Run(name, each, dict(leaves(read_parameter_values(each.parameters))),
            read_history(each), read_record(each.path))
        for name, each in zip(names, directories, strict=True)
    ]  # fmt: skip


def differences(runs: Sequence[Run]) -> list[list[str]]:
    """Return a row for each parameter that is not the same in all runs: its name, its values."""
    names = dict.fromkeys(name for run in runs for name in run.parameters)
    rows = [[name, *(run.parameters.get(name, MISSING) for run in runs)] for name in names]
    return [row for row in rows if len({*row[1:]}) > 1]


def progress(runs: Sequence[Run]) -> list[list[str]]:
    """Return a row for each learner's steps and lowest validation loss."""
    rows = []
    for learner in dict.fromkeys(name for run in runs for name in run.history.steps):
        steps = [run.history.steps.get(learner) for run in runs]
        bests = [run.history.bests.get(learner) for run in runs]
        rows.append([f"{learner}: steps", *(MISSING if s is None else f"{s:,}" for s in steps)])
        rows.append(
            [f"{learner}: lowest validation loss",
             *(MISSING if b is None else f"{b:.4f}" for b in bests)]
        )  # fmt: skip
    return rows


def figures(runs: Sequence[Run]) -> list[list[str]]:
    """Return a row for each figure: its value, interval and n in every run that has it."""
    found = [
        {} if run.record is None else {row[0]: row for row in cells(run.record.figures)}
        for run in runs
    ]
    names = dict.fromkeys(name for figures in found for name in figures)
    return [[name, *(_cell(each.get(name)) for each in found)] for name in names]


def _cell(row: Sequence[str] | None) -> str:
    if row is None:
        return MISSING
    _, value, interval, _, n = row
    return f"{value} ({interval}; n {n})" if interval else f"{value} (n {n})"


def warnings(runs: Sequence[Run]) -> list[str]:
    """Return what is to be known before figures of the runs are compared."""
    found = [
        f"{run.name}: {each}"
        for run in runs
        if run.record is not None
        for each in other_than_now(run.directory, run.record)
    ]
    records = [run.record for run in runs if run.record is not None]
    weights = dict.fromkeys(
        "/".join(map(str, dict.fromkeys(r.weights))) for r in records if r.weights
    )
    if len(weights) > 1:
        found.append(f"the figures are of different weights: {', '.join(weights)}")
    apart = comparable(runs)
    return [apart, *found] if apart else found


def comparable(runs: Sequence[Run]) -> str:
    """Return why the distances of the runs cannot be compared, nothing if they can."""
    records = [run.record for run in runs if run.record is not None]
    kept = {(r.features, r.dataset, r.split, *sorted({f.n for f in r.figures
             if f.group == "distance"})) for r in records}  # fmt: skip
    if len(kept) < 2:
        return ""
    return "the runs were evaluated with other features, data or n: compare no distances"


def write_comparison(runs: Sequence[Run], path: Path, notes: Sequence[str]) -> Path:
    """Write the page, with ``notes`` on the figures; return its path."""
    return html.write_page(path, html.page("Comparison", _parts(runs, notes)))


def _parts(runs: Sequence[Run], notes: Sequence[str]) -> Iterator[str]:
    names = [run.name for run in runs]
    yield f"<h1>Comparison</h1><p class=soft>{escape(', '.join(names))}</p>"
    rows = differences(runs)
    same = "" if rows else html.note("the parameters of all runs are the same")
    yield html.section("Parameters that differ", html.table(["", *names], rows), same)
    yield html.section("Training", html.table(["", *names], progress(runs)))
    said = "".join(html.note(each, warns=True) for each in notes)
    yield html.section("Figures", said, html.table(["", *names], figures(runs)))
    yield html.section("Curves", f'<div class="grid">{"".join(_charts(runs))}</div>')
    for title, kind in (("Evaluation", _evaluated), ("Newest samples of the training", _newest)):
        images = "".join(html.image(text, file) for run in runs for text, file in kind(run))
        yield html.section(title, f'<div class="grid">{images}</div>' if images else "")


def _charts(runs: Sequence[Run]) -> Iterator[str]:
    learners = dict.fromkeys(name for run in runs for name in run.history.steps)
    for key, title in CURVES.items():
        for learner in learners:
            lines = {
                run.name: run.history.curves[key][learner]
                for run in runs
                if learner in run.history.curves.get(key, {})
            }
            yield chart(f"{learner}: {title}", lines, key in LOGARITHMIC)


def _evaluated(run: Run) -> list[tuple[str, Path]]:
    sheets = list(read_sheets(run.directory.path).items())[:1]
    return [(f"{run.name}: {title}", path) for title, path in sheets]


def _newest(run: Run) -> list[tuple[str, Path]]:
    sheets = newest_sheets(run.directory).items()
    return [(f"{run.name}: {title}", path) for title, path in sheets]


def text_of(runs: Sequence[Run]) -> list[list[str]]:
    """Return everything that differs or was measured as rows of text for a terminal."""
    rows = [*differences(runs), *progress(runs), *figures(runs)]
    return [["", *(run.name for run in runs)], *rows]
