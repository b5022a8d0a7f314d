"""A training by ``train.py`` with a preset, as a user would start it, with some values changed."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import PRESET, ROOT, Case, Row
from benchmarks.real_data import available, folder
from minimagen.storage.directory import TrainingDirectory, read_parameters

SPLITS = ("heldout", "tune")
"""What is scored: what had no part in any choice, or what choices are made on."""
Changes = Mapping[str, Mapping[str, Any]]
"""By the name of a file of parameters, without ``.json``: values that replace its own."""


def train_preset(case: Case, data: str | Path, place: Path, flags: Sequence[str] = ()) -> Row:
    """Train ``case["preset"]`` in ``place / "training"``; return what was trained.

    Args:
        case: ``preset``, ``side``, ``seed``, ``changes``, and ``minutes`` or ``steps``.
        data: What ``--DATASET`` is given.
        place: An empty folder.
        flags: More flags.
    """
    parameters, output = place / "parameters", place / "training"
    copy_preset(case["preset"], parameters)
    change_preset(parameters, case["changes"])
    length = "--STEPS" if "steps" in case else "--MINUTES"
    command = [sys.executable, "train.py", "--PARAMETERS", str(parameters), "--DATASET", str(data)]
    command += ["--IMG_SIDE_LEN", str(case["side"]), "--SEED", str(case["seed"])]
    command += ["--OUTPUT", str(output), length, str(case.get("steps", case.get("minutes")))]
    if "steps" in case:  # a quick run: validation and sheets would take longer than the training
        (place / "captions.txt").write_text("a red star\n", "utf-8")
        command += ["--VALID_NUM", "8", "--SAMPLE_CAPTIONS", str(place / "captions.txt")]
        command += ["--BATCH_SIZE", "4"]
    begun = time.time()
    subprocess.run([*command, *flags], cwd=ROOT, check=True, stdout=sys.stderr)
    seconds = time.time() - begun
    found = read_parameters(TrainingDirectory(output).parameters)
    names = found.imagen.learner_names
    steps = {name: found.training.steps_of(i) or 0 for i, name in enumerate(names)}
    images = {n: steps[n] * found.training.batch_size_of(i) for i, n in enumerate(names)}
    return {"seconds": seconds, "steps": steps, "images": images}


def hash_preset(write: Callable[[Path], object]) -> dict[str, str]:
    """Return what a case says of the preset that ``write`` puts into a new folder.

    Eight characters that change with any value in its files, so that a row of before is not taken
    for one of today's preset.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "preset"
        write(folder)
        values = {path.name: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    text = json.dumps(values, sort_keys=True)
    return {PRESET: hashlib.sha256(text.encode()).hexdigest()[:8]}


def copy_preset(name: str, folder: Path) -> None:
    """Copy the files of a preset, "" for the demo's, to a new folder."""
    folder.mkdir(parents=True)
    for path in (ROOT / "parameters" / name).glob("*.json"):
        shutil.copy(path, folder)


def change_preset(folder: Path, changes: Changes) -> None:
    """Change values in the files of a folder of parameters."""
    for name, change in changes.items():
        path = folder / f"{name}.json"
        values = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(merged(values, change)), "utf-8")


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with some of them changed."""
    result = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], change) if both else change
    return result


def split_of(split: str, splits: Sequence[str] = SPLITS) -> dict[str, str]:
    """Return what a case says of its split: nothing of the first of ``splits``, the default."""
    return {} if split == splits[0] else {"split": split}


def sets_of(given: Sequence[str]) -> list[str]:
    """Return the named sets; real ones are left out, with a notice, where their data is missing."""
    names = []
    for name in given:
        if name == "shapes" or available():
            names.append(name)
        else:
            print(f"{name}: skipped, the real data is not at {folder()}")
    return names
