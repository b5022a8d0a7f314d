"""``python -m minimagen plot``: loss, validation, rate and throughput of a run as a PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser
from minimagen.errors import UserError

if TYPE_CHECKING:
    from minimagen.evaluation.history import History

OPTIONS = {
    "what to draw": (
        options.TRAINING_DIRECTORY,
        Option("OUTPUT", "o", "PNG to write", Path, shown="curves.png in the directory"),
    )
}  # fmt: skip
EXAMPLES = """  python -m minimagen plot
  python -m minimagen plot training_20261120_220000 --OUTPUT curves_of_monday.png"""


def main(argv: Sequence[str]) -> int:
    """Draw; return the exit code."""
    parser = Parser("python -m minimagen plot", __doc__ or "", EXAMPLES, OPTIONS)
    arguments = parser.parse(argv, bare=options.TRAINING_DIRECTORY)
    from minimagen.evaluation.history import read_history
    from minimagen.storage.directory import TrainingDirectory

    directory = TrainingDirectory.chosen(arguments.TRAINING_DIRECTORY, begun=True)
    path = directory.results(arguments.OUTPUT, "curves.png")
    if path.suffix.lower() != ".png":
        raise UserError(f"--OUTPUT {path}: the curves are a PNG; end its name in .png")
    history = read_history(directory)
    if not history.curves:
        raise UserError(f"{directory} has no curves yet: metrics.jsonl is missing or empty")
    _draw(history, path)
    print(path)
    return 0


def _draw(history: "History", path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            'the plot needs matplotlib: pip install "minimagen-cascade[plots]"; '
            "python -m minimagen report has the same curves without it"
        ) from None
    from minimagen.evaluation.history import CURVES
    from minimagen.evaluation.report import LOGARITHMIC

    figure = Figure(figsize=(11, 7), layout="constrained")
    for place, key in enumerate(CURVES, 1):
        axes = figure.add_subplot(2, 2, place)
        for learner, points in history.curves.get(key, {}).items():
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=learner, marker="o" if len(points) == 1 else None)
        if key in LOGARITHMIC and key in history.curves:
            axes.set_yscale("log")
        axes.set_title(CURVES[key])
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
