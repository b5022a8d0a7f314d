"""What people's own images become: a training of some minutes on real data, scored and shown.

    python -m benchmarks.real                                every set, ours
    python -m benchmarks.real --sets mnist --sides ours,diffusers --seeds 0,1,2
    python -m benchmarks.real --sets emoji --minutes 60
    python -m benchmarks.real --sets mnist --flags "--PARAMETERS parameters/mine"
    python -m benchmarks.real --sets emoji --score training_20261128_120000
    python -m benchmarks.real --sets flowers --split validation --flags "--OPTIM_LR 0.001"
    python -m benchmarks.real --sets emoji --sides diffusers --flags "--time_shift 24"

Our side is `train.py` with the flags that a user gives: data, side, minutes. The judges are trained
on real images only (benchmarks/judges.py), at first use; they know the validation images, the test
images of classes they do not. Choices are made with ``--split validation``: images and captions
that `train.py` splits off, with other seeds, and of emoji other captions than the final figure's.
The default, ``test``, is for figures of what is chosen. Sheets with generated images beside real
ones lie in the cache, and with ``--score`` in the training directory: look at them.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.judges import load_judge
from benchmarks.measuring import (
    ROOT,
    Case,
    Row,
    add_names,
    answer,
    build_parser,
    numbers,
    peak_of_children,
    run_cases,
)
from benchmarks.presets import split_of
from benchmarks.real_data import SETS, SPLITS, Images, RealSet, available
from benchmarks.real_scores import asked, new_emoji, recognized, scores
from benchmarks.sheets import costing_no_row, file_name
from minimagen import Imagen
from minimagen.device import resolve_device
from minimagen.images import to_model_space, to_pil, to_uint8
from minimagen.storage.cache import cache_folder
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.storage.image_files import contact_sheet
from minimagen.storage.metadata import save_png

SIDES = ("ours", "diffusers")
ON_SHEET = 64
FIRST_SEED = {"test": 0, "validation": 1_000_000}
SAMPLED_AT_ONCE = 50
Sampler = Callable[[Sequence[str], Sequence[int]], Tensor]
"""(captions, seeds) -> images [b 3 h w] in [-1, 1]."""


def measure(case: Case, started: float) -> Row:
    """Train one side, then score its images."""
    del started
    real = SETS[case["set"]].of_run(case["seed"], case.get("split", "test"))
    load_judge(real)  # its training is not part of the time
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "training"
        begun = time.time()
        if case["side"] == "ours":
            train_ours(real, case, directory)
            sample, facts = trained(directory)
            facts |= {"training_peak_bytes": peak_of_children()}
        else:
            from benchmarks.real_peer import train_peer

            sample, facts = train_peer(real, case)
        seconds = time.time() - begun
        sheets, split = sheets_of("real_sheets", case, "side"), case.get("split", "test")
        return {"seconds": seconds} | facts | score(real, sample, sheets, split)


def train_ours(real: RealSet, case: Case, directory: Path) -> None:
    """Train with `train.py`, as a user would."""
    command = [sys.executable, "train.py", "--DATASET", str(real.training_path)]
    command += ["--IMG_SIDE_LEN", str(real.side), "--SEED", str(case["seed"])]
    command += ["--OUTPUT", str(directory), *case["flags"]]
    command += ["--TRAIN_VALID_FRAC", str(real.trained_share)]  # with --FROM it would be another
    if not {"--STEPS", "--EPOCHS", "--MINUTES"} & set(case["flags"]):
        command += ["--MINUTES", str(case["minutes"])]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def trained(directory: Path) -> tuple[Sampler, Row]:
    """Return how a training directory samples, and what was trained."""
    imagen = Imagen.from_directory(directory).eval().to(resolve_device())
    training = read_parameters(TrainingDirectory.open(directory).parameters).training
    places = range(imagen.config.first_stage, len(imagen.learners))
    steps = [training.steps_of(i) or 0 for i in places]

    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        options = {"batch_size": len(captions), "precision": training.precision}
        return next(imagen.sample_batches(captions, imagen.samplings(), seeds, **options))[-1]

    return sample, {
        "sizes": [list(size) for size in imagen.config.image_sizes],
        "steps": steps,
        "images": [n * training.batch_size_of(i) for i, n in zip(places, steps, strict=True)],
    }


def sheets_of(place: str, case: Case, *own: str) -> Path:
    """Return the folder, in a place of the cache, of a case's contact sheets.

    Args:
        place: The benchmark's folder.
        case: What is measured.
        own: The names of its values that only this benchmark has.
    """
    names = ("set", *own, "minutes", "seed", "split")
    parts = [str(case[name]) for name in names if name in case]
    return cache_folder(place) / file_name([*parts, *case.get("flags", ())])


def score(real: RealSet, sample: Sampler, sheets: Path, split: str = "test") -> Row:
    """Return the figures of what ``sample`` generates for captions of a split; write the sheets."""
    truth, first = asked(real, split), FIRST_SEED[split]
    begun = time.time()
    generated = generate(sample, truth.captions, first)
    row = {"n": len(truth), "seconds_per_image": (time.time() - begun) / len(truth)}
    row |= scores(real, generated, truth, split)
    write_sheet(sheets, real.name, generated, truth)
    if real.name.startswith("emoji"):
        held_out = new_emoji(real, split)
        new = generate(sample, held_out.captions, first)
        right = recognized(load_judge(real), new, held_out.captions)
        row |= {"held_out_recognized": sum(right) / len(right), "held_out_n": len(right)}
        write_sheet(sheets, f"{real.name}_held_out", new, held_out)
    return row


def generate(sample: Sampler, captions: Sequence[str], first: int = 0) -> Tensor:
    """Return one uint8 image per caption [n 3 h w]; image i has the seed ``first + i``."""
    parts = []
    for start in range(0, len(captions), SAMPLED_AT_ONCE):
        rows = range(start, min(start + SAMPLED_AT_ONCE, len(captions)))
        seeds = [first + i for i in rows]
        parts.append(to_uint8(sample([captions[i] for i in rows], seeds)).cpu())
    return torch.cat(parts)


def write_sheet(folder: Path, name: str, generated: Tensor, truth: Images) -> None:
    """Write a contact sheet: each generated image with a real one of its caption to its right."""
    pairs = [to_pil(to_model_space(images[:ON_SHEET])) for images in (generated, truth.images)]
    sheet = contact_sheet(truth.captions[:ON_SHEET], pairs)
    with costing_no_row():
        save_png(folder / f"{name}.png", sheet)
        print(f"sheet: {folder / name}.png", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    add_names(parser, "--sets", SETS)
    add_names(parser, "--sides", SIDES, ["ours"], "ours")
    parser.add_argument("--seeds", type=numbers, default=[0], help="[0]")
    parser.add_argument("--minutes", type=float, help="[the set's own]")
    parser.add_argument("--flags", default="", help="more flags for train.py")
    parser.add_argument("--split", choices=SPLITS, default="test", help="what is scored [test]")
    parser.add_argument("--score", type=Path, help="only score this training directory, no row")
    arguments = parser.parse_args(argv)
    if not available():
        raise SystemExit("no real data: set MINIMAGEN_BENCHMARK_DATA to its folder")
    if answer(arguments, measure):
        return []
    if arguments.flags and len(arguments.sides) > 1:
        raise SystemExit("--flags are those of one side: give it as --sides")
    sets = [SETS[name] for name in arguments.sets]
    if arguments.score is not None:
        sample, facts = trained(arguments.score)
        data = read_parameters(TrainingDirectory.open(arguments.score).parameters).data
        sets = [replace(real, seed=data.seed, share=data.train_valid_frac) for real in sets]
        rows = [facts | score(real, sample, arguments.score, arguments.split) for real in sets]
        print(rows)
        return rows
    split = split_of(arguments.split, SPLITS)
    cases = [
        {
            "set": real.name,
            "side": side,
            "minutes": arguments.minutes or real.minutes,
            "seed": seed,
            "flags": arguments.flags.split(),
            **split,
        }
        for real in sets
        for seed in arguments.seeds
        for side in arguments.sides
    ]
    return run_cases("benchmarks.real", cases, measure, arguments)


if __name__ == "__main__":
    main()
