"""What a CLIP learns in some minutes: zero-shot classes, attributes, retrieval.

    python -m benchmarks.clip                        every set
    python -m benchmarks.clip --sets mnist,shapes --seeds 0,1,2
    python -m benchmarks.clip --sets emoji --changes '{"text": {"kind": "characters"}}'

It is trained by ``train.py --PARAMETERS clip`` as a user would. Classes are looked for with prompts
that no caption of the training had. Of the shapes, each held-out image is compared with its own
caption and with captions that differ in one attribute; and with the caption where object and
background have changed colors. Of the emoji one of three drawing styles is held out. Choices are
made with ``--split tune``: other combinations of attributes, images that training splits off.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Case, Row, add_names, answer, build_parser, numbers, run_cases
from benchmarks.presets import (
    SPLITS,
    copy_preset,
    hash_preset,
    merged,
    sets_of,
    split_of,
    train_preset,
)
from benchmarks.real_data import emoji_rows, folder
from minimagen.config import DataConfig
from minimagen.config.data import ShapesSplit
from minimagen.data.loading.batches import good_samples
from minimagen.data.open import load_dataset
from minimagen.draws import rng
from minimagen.evaluation.clip import (
    caption_vectors,
    evaluate_clip,
    held_out,
    image_vectors,
)
from minimagen.evaluation.metrics import wilson_interval
from minimagen.sample import Sample
from minimagen.shapes import objects
from minimagen.shapes.dataset import ShapesDataset
from minimagen.shapes.drawing import COLORS, PATTERNS, SHAPES
from minimagen.storage.cache import cache_folder
from minimagen.text.build import load_clip
from minimagen.text.clip import Clip

MINUTES = {"mnist": 3.0, "fashion_mnist": 5.0, "shapes": 3.0, "emoji": 10.0}
SIDES = {"mnist": 32, "fashion_mnist": 32, "shapes": 32, "emoji": 64}
CHANGES: dict[str, dict[str, Any]] = {"emoji": {"text": {"encoder": "minilm_mini"}, "jitter": 1.0}}
HELD_OUT_STYLE = "openmoji"
VALUES = {
    "shape": tuple(SHAPES),
    "color": tuple(COLORS),
    "size": tuple(objects.SIZES),
    "background": tuple(COLORS),
    "pattern": PATTERNS,
}
SHAPES_COUNT, QUICK_COUNT = 1000, 20


def measure(case: Case, started: float) -> Row:
    """Train one CLIP and measure it."""
    del started
    with tempfile.TemporaryDirectory() as place:
        row = train_preset(case, training_data(case["set"]), Path(place))
        return row | score(load_clip(Path(place) / "training"), case)


def training_data(name: str) -> str | Path:
    """Return what ``--DATASET`` is given."""
    if name == "shapes":
        return "shapes"
    if name == "emoji":
        return emoji_folder(held_out_style=False)
    return folder() / name / "train.parquet"


def emoji_folder(held_out_style: bool) -> Path:
    """Return an image folder of the emoji in the held-out style, or in the others; text alone."""
    target = cache_folder("clip") / f"emoji_{HELD_OUT_STYLE if held_out_style else 'others'}"
    if (target / "metadata.jsonl").is_file():
        return target
    rows = [r for r in emoji_rows() if (r["style"] == HELD_OUT_STYLE) == held_out_style]
    target.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in rows:
        shutil.copy(folder() / "emoji" / row["file_name"], target)
        line = {"file_name": Path(row["file_name"]).name, "text": row["text"]}
        lines.append(json.dumps(line))
    (target / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return target


def score(clip: Clip, case: Case) -> Row:
    """Return the figures of a trained CLIP."""
    name, count, split = case["set"], case.get("count"), case.get("split", SPLITS[0])
    side = SIDES[name]
    if name == "shapes":
        return score_shapes(clip, count or SHAPES_COUNT, split)
    if split == "tune":
        dataset = load_dataset(training_data(name), side)
        samples = held_out(dataset, count, DataConfig(seed=case["seed"]))
    elif name == "emoji":
        dataset = load_dataset(emoji_folder(held_out_style=True), side)
        assert dataset.repeatable
        samples = list(good_samples(dataset, min(count or len(dataset), len(dataset))))
    else:
        dataset = load_dataset(folder() / name, side)
        samples = held_out(dataset, count)
    report = evaluate_clip(clip, samples)
    row: Row = {"n": report.count, "captions": report.captions, "accuracy": report.accuracy}
    if report.accuracy is not None:
        right = round(report.accuracy * report.count)
        row["interval"] = list(wilson_interval(right, report.count))
    return row | {"recall": report.recall, "image_recall": report.image_recall}


def score_shapes(clip: Clip, count: int, split: ShapesSplit) -> Row:
    """Return how often an image is nearest to its own caption among those that differ in a part."""
    samples = list(ShapesDataset(split, size=SIDES["shapes"], seed=1, epoch_size=count))
    images = image_vectors(clip, samples)
    found: dict[str, float] = {}
    for name, values in VALUES.items():
        similarity = torch.stack(
            [_similarity(clip, images, samples, {name: value}) for value in values], dim=1
        )
        truth = torch.tensor([values.index(sample.attributes[name]) for sample in samples])
        found[name] = float((similarity.argmax(1) == truth).double().mean())
    own, other = (_similarity(clip, images, samples, {}, swapped) for swapped in (False, True))
    right = int((own > other).sum())
    return {
        "n": count,
        "attributes": found,
        "swapped": right / count,
        "swapped_interval": list(wilson_interval(right, count)),
    }


def _similarity(
    clip: Clip,
    images: Tensor,
    samples: Sequence[Sample],
    change: dict[str, str],
    swapped: bool = False,
) -> Tensor:
    """Return the cosine of each image and its caption with a ``change``, in one wording, [n]."""
    captions = []
    for i, sample in enumerate(samples):
        have = {**sample.attributes, **change}
        if swapped:
            have |= {"color": have["background"], "background": have["color"]}
        captions.append(objects.caption_for(have, rng("benchmark wording", i)))
    return (images * caption_vectors(clip, captions)).sum(1)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    add_names(parser, "--sets", MINUTES)
    parser.add_argument("--seeds", type=numbers, default=[0], help="[0]")
    parser.add_argument("--minutes", type=float, help="[the set's own]")
    parser.add_argument("--changes", default="{}", help="JSON: changes to clip.json")
    parser.add_argument("--training", default="{}", help="JSON: changes to training.json")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="tune: for choices")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    preset = hash_preset(partial(copy_preset, "clip"))
    cases: list[Case] = []
    for name in sets_of(arguments.sets):
        for seed in arguments.seeds:
            clip = merged(CHANGES.get(name, {}), json.loads(arguments.changes))
            changes = {"clip": clip, "training": json.loads(arguments.training)}
            case: Case = {"set": name, "preset": "clip", "side": SIDES[name], "seed": seed}
            case |= {"changes": changes}
            length: Case = {"minutes": arguments.minutes or MINUTES[name]}
            if arguments.quick:
                length = {"steps": 2, "count": QUICK_COUNT}
            cases.append(case | length | split_of(arguments.split) | preset)
    return run_cases("benchmarks.clip", cases, measure, arguments)


if __name__ == "__main__":
    main()
