"""``python -m minimagen report``: one HTML page about a run, also while it is going on."""

from collections.abc import Sequence
from pathlib import Path

from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser

OPTIONS = {
    "what to report": (
        options.TRAINING_DIRECTORY,
        Option("OUTPUT", "o", "Folder for report.html, with the evaluation that is to be shown",
               Path, shown="the training directory"),
    )
}  # fmt: skip
EXAMPLES = """  python -m minimagen report
  python -m minimagen report training_20261120_220000 --OUTPUT for_a_colleague"""


def main(argv: Sequence[str]) -> int:
    """Write the report; return the exit code."""
    parser = Parser("python -m minimagen report", __doc__ or "", EXAMPLES, OPTIONS)
    arguments = parser.parse(argv, bare=options.TRAINING_DIRECTORY)
    from minimagen.evaluation.report import write_report
    from minimagen.storage.directory import TrainingDirectory

    directory = TrainingDirectory.chosen(arguments.TRAINING_DIRECTORY, begun=True)
    print(write_report(directory, directory.results(arguments.OUTPUT)))
    return 0
