"""``python -m minimagen compare``: several runs side by side, as a table and an HTML page."""

from collections.abc import Sequence
from pathlib import Path

from minimagen.cli.arguments import Option, Parser
from minimagen.cli.table import table
from minimagen.errors import UserError

DIRECTORIES = Option(
    "TRAINING_DIRECTORIES", "d", "Directories that train.py made, two or more", Path, several=True
)
OPTIONS = {
    "what to compare": (
        DIRECTORIES,
        Option("OUTPUT", "o", "HTML file to write", Path, Path("comparison.html")),
    )
}
EXAMPLES = """  python -m minimagen compare training_20261120_220000 training_20261121_090000
  python -m minimagen compare training_* --OUTPUT all_runs.html"""


def main(argv: Sequence[str]) -> int:
    """Compare; return the exit code."""
    parser = Parser("python -m minimagen compare", __doc__ or "", EXAMPLES, OPTIONS)
    arguments = parser.parse(argv, bare=DIRECTORIES)
    given = arguments.TRAINING_DIRECTORIES or []
    if len(given) < 2:
        raise UserError(f"{len(given)} directories: name two or more, such as compare ONE OTHER")
    from minimagen.evaluation.comparison import read_runs, text_of, warnings, write_comparison
    from minimagen.storage.directory import TrainingDirectory

    runs = read_runs([TrainingDirectory.open(path) for path in given])
    print(table(text_of(runs)))
    notes = warnings(runs)
    for note in notes:
        print(note)
    print(write_comparison(runs, arguments.OUTPUT, notes))
    return 0
