"""Some minutes of training on a folder of captioned images: what they give on a GPU.

    python -m benchmarks.gpu quality --data ../data/emoji

A run of ``train.py`` with the recipe that it chooses itself; then validation loss, images seen, and
a sheet of its captions to look at.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import RESULTS, ROOT, Case, Row, append

FOR_START_AND_SAVING = 60.0  # s


def run(arguments: argparse.Namespace, deadline: float) -> int:
    """Train until shortly before the deadline and print and append the row."""
    case: Case = {"what": "quality", "data": arguments.data and arguments.data.name, "side": 64}
    folder = arguments.results or (RESULTS / "quick" if arguments.tiny else RESULTS)
    if arguments.data is None or not arguments.data.exists():
        given = "no --data was given" if arguments.data is None else f"no folder {arguments.data}"
        row: Row = {"skipped": given}
    else:
        row = _trained(arguments, deadline)
    append("gpu", case, row, folder)
    print(json.dumps(case | row))
    return 1 if "failed" in row else 0


def _trained(arguments: argparse.Namespace, deadline: float) -> Row:
    output = Path(tempfile.mkdtemp(prefix="minimagen_gpu_")) / "training"
    left = deadline - time.monotonic()
    minutes = max(0.1, (left - FOR_START_AND_SAVING) / 60)
    tiny = ["--TESTING", "--TIMESTEPS", "1", "--DEVICE", "cpu"]
    whole = ["--IMG_SIDE_LEN", "64", "--MINUTES", f"{minutes:.2f}", "--DEVICE", "cuda"]
    how = tiny if arguments.tiny else whole
    command = [sys.executable, "train.py", "--DATASET", str(arguments.data), *how]
    try:
        done = subprocess.run(
            [*command, "--OUTPUT", str(output)], cwd=ROOT, timeout=left, stdout=sys.stderr
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished in {left:.0f} s", "directory": str(output)}
    if done.returncode:
        return {"failed": f"train.py ended with {done.returncode}", "directory": str(output)}
    return summary(output)


def summary(directory: Path) -> Row:
    """Return what a finished training directory says of each stage."""
    lines = (directory / "metrics.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    training = json.loads((directory / "parameters" / "training.json").read_text("utf-8"))
    stages = []
    for i, settings in enumerate(training["learners"]):
        own = [record for record in records if record["stage"] == i]
        steps, batch = own[-1]["step"], settings["batch_size"] or training["batch_size"]
        losses = [record["valid_loss"] for record in own if "valid_loss" in record]
        speeds = [record["images_per_second"] for record in own if "images_per_second" in record]
        row = {"steps": steps, "images": steps * batch, "valid_loss": losses[-1]}
        stages.append(row | ({"images_per_second": speeds[-1]} if speeds else {}))
    sheets = sorted(map(str, (directory / "samples").glob("*.png")))
    return {"stages": stages, "sheet": sheets[-1], "directory": str(directory)}
