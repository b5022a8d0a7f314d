"""Ways to generate images from text, side by side: same data, same minutes, everything included.

    python -m benchmarks.ways                         every way, digits and shapes, 3 and 10 minutes
    python -m benchmarks.ways --minutes 10 --sets digits
    python -m benchmarks.ways --ways latent,tokens --seeds 0,1,2
    python -m benchmarks.ways --ways linear_l1,linear_l1_shifted --sets shapes   at 32 px
    python -m benchmarks.ways --ways tokens --changes '{"gpt_0": {"gpt": {"embedding": "both"}}}'
    python -m benchmarks.ways --sets digits --files real            handwritten, on photographs
    python -m benchmarks.ways --sets digits --files mnist=FILE,textures=FILE --judge FILE
    python -m benchmarks.ways --sets digits --score DIR           a training directory

A pixel cascade (the demo's), the same with a flow and the absolute error, latent diffusion, and
tokens with a GPT, at 64 px. The minutes hold everything: autoencoder, stages, validation, sheets.
The judge is that of ``python -m minimagen evaluate``; for ``--files`` one is trained at first use
(tools/train_judge.py), and ``--files real`` are those of the real data (benchmarks/README.md).
Captions are held-out combinations of attributes; with ``--split tune`` others, to make choices.
``through`` is what the judge reads in real images that went through a way's autoencoder and
super-resolution: a bound for what is generated. Sheets lie in the cache: one for each way, and one
for each data set with the same captions by every way, real images first.
"""

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import (
    ROOT,
    Case,
    Row,
    add_names,
    answer,
    build_parser,
    numbers,
    run_cases,
)
from benchmarks.presets import SPLITS, copy_preset, hash_preset, split_of, train_preset
from benchmarks.real_data import folder as real_folder
from benchmarks.sheets import costing_no_row, file_name
from minimagen import Imagen, Judge
from minimagen.data.loading.reading import stack_images
from minimagen.device import resolve_device
from minimagen.evaluation.judge import score
from minimagen.evaluation.metrics import grain, kernel_distance, wilson_interval
from minimagen.images import resize_clamped, to_model_space, to_pil, to_uint8
from minimagen.networks.unet import count_parameters
from minimagen.sample import Sample
from minimagen.shapes.dataset import embedded
from minimagen.shapes.digits import FILES, hash_file
from minimagen.stages.coded import CodedStage
from minimagen.storage.cache import cache_folder
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.storage.files import replacing
from minimagen.storage.image_files import contact_sheet
from minimagen.storage.metadata import save_png
from minimagen.storage.model_hash import model_hash

SIDE, COUNT, QUICK_COUNT, BATCH = 64, 500, 4, 50
ON_SHEET, BESIDE = 48, 12  # images on the sheet of a way, and of a data set
WAYS = ("cascade", "flow", "latent", "tokens")
KERAS = ("linear_l1", "linear_l1_shifted")  # guided-diffusion-keras' times of training, and ours
PRESETS = {"latent": "latent", "tokens": "dalle"} | {name: name for name in KERAS}
SIDES = dict.fromkeys(KERAS, 32)
JUDGES = {"shapes": "simple", "digits": "digits"}


def measure(case: Case, started: float) -> Row:
    """Train one way and score its images."""
    del started
    if "score" in case:
        return score_way(Imagen.from_directory(case["score"]).to(resolve_device()), case)
    with tempfile.TemporaryDirectory() as place:
        preset = Path(place) / "preset"
        _write_preset(case["way"], preset)
        row = train_preset(case | {"preset": str(preset)}, data_of(case), Path(place))
        row["training_bytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        imagen = Imagen.from_directory(Path(place) / "training").to(resolve_device())
    return row | score_way(imagen, case)


def data_of(case: Case) -> str:
    """Return what ``--DATASET`` is given."""
    return f"{case['set']}:{case['files']}" if case["files"] else str(case["set"])


def judge_of(case: Case) -> Judge:
    """Return the judge of a case's data; where it is of files, it is trained at first use."""
    name, file = JUDGES[case["set"]], Path(case["judge"]) if case["judge"] else None
    if file is None and case["files"]:
        hashes = [hash_file(each.partition("=")[2]) for each in sorted(case["files"].split(","))]
        digest = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        file = cache_folder("judges") / f"{name}_{digest[:16]}.safetensors"
        if not file.is_file():
            with replacing(file) as part:
                command = [sys.executable, "tools/train_judge.py", name, "--files", case["files"]]
                command += ["--count", "1000", "--out", str(part)]
                subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return Judge.load(name, file)


def _write_preset(way: str, folder: Path) -> None:
    """Write the parameters of a way: a preset, or the demo's with a flow."""
    copy_preset(PRESETS.get(way, ""), folder)
    if way == "flow":
        base = json.loads((folder / "unet_0.json").read_text("utf-8"))
        base["schedule"] = {"kind": "flow"}
        base["loss"] |= {"error": "l1", "weight": "simple", "space": "x_0"}
        (folder / "unet_0.json").write_text(json.dumps(base), "utf-8")


def score_way(imagen: Imagen, case: Case) -> Row:
    """Return the figures of a trained way."""
    count, samples = case["count"], list(_held_out(case))
    captions, truth = [s.caption for s in samples], [s.attributes for s in samples]
    calls = _Calls(imagen)
    begun = time.time()
    parts = [
        images[-1]
        for images in imagen.sample_batches(
            captions, imagen.samplings(), range(count), batch_size=BATCH
        )
    ]
    seconds, called = (time.time() - begun) / count, calls.count / len(parts)
    generated, real = to_uint8(torch.cat(parts)), stack_images(samples)
    judge = judge_of(case)
    verdicts, of_truth = judge(generated), judge(real)
    right, of_real = score(verdicts, truth), score(of_truth, truth)
    features = [judge.features(images) for images in (generated, real)]
    sheet = _sheet(case, case["way"])
    shown = [to_pil(to_model_space(images[:ON_SHEET])) for images in (generated, real)]
    with costing_no_row():
        save_png(sheet, contact_sheet(captions[:ON_SHEET], shown))
        np.save(_images(case), generated[:BESIDE].numpy())
    return {
        "n": count,
        "correct": right,
        "interval": list(wilson_interval(round(right["all"] * count), count)),
        "real_correct": of_real,
        "through": score(judge(through(imagen, real, captions)), truth),
        "by_texture": {
            kind: {
                "n": len(rows),
                "correct": score(_rows(verdicts, rows), [truth[i] for i in rows]),
                "real_correct": score(_rows(of_truth, rows), [truth[i] for i in rows]),
            }
            for kind in ("no", "yes")
            if (rows := [i for i, have in enumerate(truth) if have.get("texture") == kind])
        },
        "kernel": kernel_distance(*features),
        "grain": float(grain(to_model_space(generated)).mean()),
        "grain_real": float(grain(to_model_space(real)).mean()),
        "seconds_per_image": seconds,
        "calls_per_image": called,
        "parameters": {each.name: count_parameters(each) for each in imagen.learners},
    }


def through(imagen: Imagen, images: Tensor, captions: Sequence[str]) -> Tensor:
    """Return images as the parts around the first stage leave them: autoencoder, later stages.

    Args:
        imagen: The cascade.
        images: uint8 [n 3 h w].
        captions: Those of the images.

    Returns:
        uint8 [n 3 h w], of the size of the last stage.
    """
    first = imagen.stages[0].eval()
    assert isinstance(first, CodedStage)
    coder = first.autoencoder
    left = resize_clamped(to_model_space(images), imagen.config.image_sizes[0])
    with torch.inference_mode():
        parts = [coder.reconstruct(each.to(imagen.device)).cpu() for each in left.split(BATCH)]
    left = torch.cat(parts).clamp(-1.0, 1.0)
    if later := imagen.samplings()[1:]:
        how = {"first": 1, "low_res": left, "batch_size": BATCH}
        batches = imagen.sample_batches(captions, later, range(len(captions)), **how)
        left = torch.cat([made[-1] for made in batches])
    return to_uint8(left)


def _held_out(case: Case) -> Iterator[Sample]:
    """Draw what is asked for, and judged."""
    options = {"size": case["side"], "seed": 1, "epoch_size": case["count"]}
    return iter(embedded(data_of(case), split=case.get("split", SPLITS[0]), **options))


def _sheet(case: Case, of: str) -> Path:
    """Return where the sheet of a way, or of what is named so, lies."""
    parts = [
        of,
        case["set"],
        case.get("minutes", "quick"),
        case["seed"],
        json.dumps(case["changes"]) if case["changes"] else "",
        "files" if case["files"] else "",
        case.get("split", ""),
    ]
    return cache_folder("ways_sheets") / f"{file_name(str(p) for p in parts if p != '')}.png"


def _images(case: Case) -> Path:
    """Return where the first images of a way lie."""
    return _sheet(case, case["way"]).with_suffix(".npy")


def beside(cases: Sequence[Case]) -> list[Path]:
    """Write a sheet for each data set and seed: real images, then those of every way.

    Ways whose images are no longer in the cache are left out.
    """
    groups: dict[Path, list[Case]] = {}
    for case in cases:
        if _images(case).is_file():
            groups.setdefault(_sheet(case, "all"), []).append(case)
    for path, group in groups.items():
        samples = list(islice(_held_out(group[0]), BESIDE))
        columns = [stack_images(samples)]
        columns += [torch.from_numpy(np.load(_images(case))) for case in group]
        shown = [to_pil(to_model_space(images[: len(samples)])) for images in columns]
        headings = ["real", *(case["way"] for case in group)]
        captions = [sample.caption for sample in samples]
        save_png(path, contact_sheet(captions, shown, columns=2, headings=headings))
    return list(groups)


def _rows(verdicts: dict[str, list[str]], rows: Sequence[int]) -> dict[str, list[str]]:
    return {name: [values[i] for i in rows] for name, values in verdicts.items()}


class _Calls:
    """Counts how often the networks of stages are called."""

    def __init__(self, imagen: Imagen) -> None:
        self.count = 0
        for stage in imagen.stages:
            network: Any = next(iter(stage.children()))
            blocks = getattr(network, "blocks", None)
            watched = network if blocks is None else blocks[0]
            watched.register_forward_hook(self._called)

    def _called(self, *_: Any) -> None:
        self.count += 1


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    add_names(parser, "--sets", JUDGES, ["digits", "shapes"], "digits,shapes")
    add_names(parser, "--ways", (*WAYS, *KERAS), WAYS, "the first four")
    parser.add_argument("--minutes", default="3,10", help="of each way [3,10]")
    parser.add_argument("--seeds", type=numbers, default=[0], help="[0]")
    parser.add_argument("--files", default="", help="of digits: mnist=FILE,textures=FILE, or real")
    parser.add_argument("--judge", default="", help="that tools/train_judge.py made [the bundled]")
    parser.add_argument("--changes", default="{}", help="JSON: changes to files of parameters")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="tune: for choices")
    parser.add_argument("--score", help="training directory to score, instead of training")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    lengths: list[Case] = [
        {"minutes": float(each), "count": COUNT} for each in arguments.minutes.split(",")
    ]
    if arguments.quick:
        lengths = [{"steps": 2, "count": QUICK_COUNT}]
    if arguments.files == "real":
        parts = (f"{name}={real_folder() / name / 'train.parquet'}" for name in FILES)
        arguments.files = ",".join(parts)
    if arguments.score:
        arguments.ways = [Path(arguments.score).name]
        directory = TrainingDirectory.open(arguments.score)
        minutes = read_parameters(directory.parameters).training.minutes
        total = sum(minutes) if isinstance(minutes, tuple) else minutes
        lengths = [
            {"count": lengths[0]["count"], "score": arguments.score}
            | {"weights": model_hash(directory)}
            | ({} if total is None else {"minutes": total})
        ]
    changes = json.loads(arguments.changes)
    cases = [
        {
            "way": way,
            "set": name,
            "side": SIDES.get(way, SIDE),
            "seed": seed,
            "changes": changes,
        }
        | {"files": arguments.files if name == "digits" else "", "judge": arguments.judge}
        | length
        | split_of(arguments.split)
        | ({} if arguments.score else hash_preset(partial(_write_preset, way)))
        for length in lengths
        for name in arguments.sets
        for way in arguments.ways
        for seed in arguments.seeds
    ]
    for case in cases:
        judge_of(case)  # trained here: neither its time nor its memory are those of a way
    rows = run_cases("benchmarks.ways", cases, measure, arguments)
    for path in beside(cases):
        print(f"sheet: {path}", file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
