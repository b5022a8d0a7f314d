"""Measure on one GPU, each command within 8 minutes.

    python -m benchmarks.gpu step                  # images/s and share of the bf16 peak
    python -m benchmarks.gpu quality --data emoji  # train on a folder of captioned images, and look
    python -m benchmarks.gpu tests                 # the tests that need a GPU

They need torch with CUDA and what the package itself needs; ``step`` also diffusers for its side,
``tests`` pytest. Where there is no GPU they print a line and exit with 2. ``--tiny`` runs all of it
in small on the CPU, of the tests one: a test of the benchmark.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import quality, step, tests

COMMANDS = {"step": step.run, "quality": quality.run, "tests": tests.run}
LIMIT = 450.0  # s


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--data", type=Path, help="for quality: a folder with captioned images")
    parser.add_argument("--results", type=Path, help="where rows go [benchmarks/results]")
    parser.add_argument("--tiny", action="store_true", help="in small, on the CPU")
    arguments = parser.parse_args(argv)
    if not arguments.tiny and not torch.cuda.is_available():
        print(
            f"benchmarks.gpu {arguments.command}: torch {torch.__version__} finds no CUDA device "
            "here; run it on a machine with one, or give --tiny for a test on the CPU",
            file=sys.stderr,
        )
        return 2
    return COMMANDS[arguments.command](arguments, time.monotonic() + LIMIT)


if __name__ == "__main__":
    sys.exit(main())
