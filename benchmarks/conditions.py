"""Class names as words, as one-hot labels and as vectors of a CLIP: the same data, equal minutes.

    python -m benchmarks.conditions                      MNIST and Fashion-MNIST, 10 minutes
    python -m benchmarks.conditions --sets mnist --conditions labels,clip --seeds 0,1,2
    python -m benchmarks.conditions --split validation   to make choices

Each is a training by ``train.py`` with the recipe for the data, as in ``benchmarks.real``, and is
scored alike. The minutes of the CLIP are part of the whole: what it conditions has those that are
left, and the recipe for these.
"""

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.judges import load_judge
from benchmarks.measuring import Case, Row, add_names, answer, build_parser, numbers, run_cases
from benchmarks.presets import copy_preset, hash_preset, split_of, train_preset
from benchmarks.real import score, sheets_of, train_ours, trained
from benchmarks.real_data import SETS, SPLITS, RealSet, available

CONDITIONS = {"words": "t5_mini", "labels": "labels", "clip": "clip"}
"""What each is called -> the text encoder; that of ``clip`` is trained here, before the images."""
SAMPLED = ("mnist", "fashion_mnist")
CLIP_SHARE = 0.3  # of the minutes


def measure(case: Case, started: float) -> Row:
    """Train with one condition and score the images."""
    del started
    real = SETS[case["set"]].of_run(case["seed"], case.get("split", "test"))
    load_judge(real)  # its training is not part of the time
    with tempfile.TemporaryDirectory() as place:
        begun = time.time()
        flags, minutes, facts = encoder_of(real, case, Path(place))
        train_ours(real, case | {"flags": flags, "minutes": minutes}, Path(place) / "training")
        seconds = time.time() - begun
        sample, found = trained(Path(place) / "training")
        facts |= {"seconds": seconds, "stage_minutes": minutes} | found
        sheets = sheets_of("conditions_sheets", case, "condition")
        return facts | score(real, sample, sheets, case.get("split", "test"))


def encoder_of(real: RealSet, case: Case, place: Path) -> tuple[list[str], float, Row]:
    """Return the flags for ``train.py``, the minutes that are left for it, and what was trained."""
    condition, minutes = case["condition"], case["minutes"]
    if condition != "clip":
        return ["--T5_NAME", CONDITIONS[condition]], minutes, {}
    own = {"preset": "clip", "side": real.side, "seed": case["seed"], "changes": {}}
    own["minutes"] = CLIP_SHARE * minutes
    share = [] if real.share is None else ["--TRAIN_VALID_FRAC", str(real.share)]
    row = train_preset(own, real.training_path, place / "clip", share)
    flags = ["--T5_NAME", str(place / "clip" / "training")]
    return flags, minutes - own["minutes"], {"clip": row}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    add_names(parser, "--sets", SAMPLED, shown="both")
    add_names(parser, "--conditions", CONDITIONS)
    parser.add_argument("--seeds", type=numbers, default=[0], help="[0]")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training [10]")
    parser.add_argument("--split", choices=SPLITS, default="test", help="what is scored [test]")
    arguments = parser.parse_args(argv)
    if not available():
        raise SystemExit("no real data: set MINIMAGEN_BENCHMARK_DATA to its folder")
    if answer(arguments, measure):
        return []
    split = split_of(arguments.split, SPLITS)
    preset = {"clip": hash_preset(partial(copy_preset, "clip"))}
    cases = [
        {"set": name, "condition": condition, "minutes": arguments.minutes, "seed": seed}
        | split
        | preset.get(condition, {})
        for name in arguments.sets
        for seed in arguments.seeds
        for condition in arguments.conditions
    ]
    return run_cases("benchmarks.conditions", cases, measure, arguments)


if __name__ == "__main__":
    main()
