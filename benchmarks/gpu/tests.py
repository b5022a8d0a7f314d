"""The tests that need a GPU, with pytest alone: its plugins may be missing there."""

import argparse
import subprocess
import sys
import time

from benchmarks.measuring import ROOT

FILE = "tests/test_devices.py"


def run(arguments: argparse.Namespace, deadline: float) -> int:
    """Run them (``--tiny``: one claim on the CPU); return pytest's exit code, 1 when late."""
    chosen = ["-k", "cpu and does_not_depend_on_its_batch"] if arguments.tiny else ["-m", "cuda"]
    plain = ["-o", "addopts=", "-p", "no:cacheprovider", "-q", "-rs", "--durations", "5"]
    command = [sys.executable, "-m", "pytest", *plain, *chosen, FILE]
    try:
        return subprocess.run(command, cwd=ROOT, timeout=deadline - time.monotonic()).returncode
    except subprocess.TimeoutExpired:
        print("tests: not finished within the time", file=sys.stderr)
        return 1
