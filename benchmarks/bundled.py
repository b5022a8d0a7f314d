"""How good the bundled cascades are: judged by networks that had no part in their training.

    python -m benchmarks.bundled                                   both cascades of pretrained/
    python -m benchmarks.bundled --only emoji --sheets sheets      with sheets for the eye
    python -m benchmarks.bundled --only scenes --directory training_20261128_220000

Emoji: captions of the training set and of the held-out combinations of emoji and style, each on a
background; the judge is ``composed_judge.py``. Scenes: held-out captions; the judge is that of
``python -m minimagen evaluate``. Shuffled captions give chance. An image counts as a copy if its
nearest training image is less than a third as far away as its second nearest, in pixels at 8 px
(arXiv 2212.03860).
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.composed_emoji import GROUNDS, ON_WHITE, SIDE, ComposedEmoji, wording
from benchmarks.composed_judge import judged, load_composed_judge
from benchmarks.measuring import (
    RESULTS,
    ROOT,
    Case,
    Row,
    answer,
    build_parser,
    read_rows,
    run_cases,
)
from benchmarks.real_data import folder
from minimagen import Imagen, Judge, ShapesDataset
from minimagen.data.loading.reading import stack_images
from minimagen.device import resolve_device
from minimagen.draws import rng
from minimagen.evaluation.evaluate import evaluate
from minimagen.evaluation.memorization import Nearest, nearest, small_pixels
from minimagen.evaluation.metrics import wilson_interval
from minimagen.images import to_model_space, to_pil, to_uint8
from minimagen.sample import Sample
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.image_files import contact_sheet
from minimagen.storage.metadata import save_png

BUNDLED = ("emoji", "scenes")
COUNT, QUICK_COUNT = 500, 4
KNOWN_SCENES, QUICK_KNOWN = 8192, 32  # training images that scenes are compared with
RING = 3  # px from the border: where the background is measured
ON_SHEET = 48
SCENES_SEED = 1  # of the captions, as in python -m minimagen evaluate
CAPTION = {
    "emoji": "a red apple, noto style, on a blue background",
    "scenes": "a red star left of a blue ring on a white background",
}


def measure(case: Case, started: float) -> Row:
    """Score one cascade."""
    del started
    directory = ROOT / case["directory"]
    imagen = Imagen.from_directory(directory).to(resolve_device())
    score = score_emoji if case["what"] == "emoji" else score_scenes
    row = score(imagen, case["count"], case["sheets"])
    return row | {"first_image_seconds": first_image_seconds(directory, CAPTION[case["what"]])}


def score_emoji(imagen: Imagen, count: int, sheets: str | None) -> Row:
    """Return the figures of the emoji cascade."""
    path = folder() / "emoji"
    judge, everything = load_composed_judge(path), ComposedEmoji(path, "all")
    parts = {"training": ComposedEmoji(path), "held_out": ComposedEmoji(path, "held out")}
    white = [parts["training"].compose(i, "", "") for i in range(len(parts["training"]))]
    known, row = stack_images(white), Row()
    for name, emoji in parts.items():
        samples = asked(emoji, count)
        real, generated = stack_images(samples), generate(imagen, samples)
        shuffled = random.Random(0).sample(samples, len(samples))
        figures = judged(judge, generated, samples, everything)
        correct = round(figures["fully_correct"] * len(samples))
        on_white = [i for i, s in enumerate(samples) if s.attributes["background"] == "white"]
        row[name] = {
            "n": len(samples),
            "generated": figures,
            "interval": list(wilson_interval(correct, len(samples))),
            "real": judged(judge, real, samples, everything),
            "shuffled": judged(judge, generated, shuffled, everything),
            "background": background(generated, samples, real),
            "copies": neighbors(generated[on_white], known).copies,
            "copies_real": neighbors(real[on_white], known).copies,
        }
        write_sheet(sheets, f"emoji_{name}", samples, [real, generated])
        some = [samples[i] for i in on_white]
        closest = known[neighbors(generated[on_white], known).row]
        write_sheet(sheets, f"emoji_{name}_nearest", some, [generated[on_white], closest])
    return row


def asked(emoji: ComposedEmoji, count: int) -> list[Sample]:
    """Return ``count`` different emoji, half on white, with the caption that names all."""
    rows = random.Random(0).sample(range(len(emoji)), min(count, len(emoji)))
    return [_asked(emoji, index, rng("asked", index)) for index in rows]


def _asked(emoji: ComposedEmoji, index: int, draws: random.Random) -> Sample:
    grounds = emoji.grounds(index)
    ground = draws.choice(grounds) if grounds and draws.random() >= ON_WHITE else ""
    return emoji.compose(index, ground, wording(emoji.emoji[index] | {"tags": []}, ground, draws))


def background(generated: Tensor, samples: Sequence[Sample], real: Tensor) -> dict[str, float]:
    """Return noise and error of the border where the real image shows its background, in 1/255."""
    near = torch.ones(SIDE, SIDE, dtype=torch.bool)
    near[RING:-RING, RING:-RING] = False
    noise, error = [], []
    for made, true, sample in zip(generated.float(), real, samples, strict=True):
        color = torch.tensor(GROUNDS[sample.attributes["background"]])
        flat = (true == color[:, None, None]).all(0) & near
        if flat.sum() >= 2 * SIDE:
            noise.append(made[:, flat].std(1).mean().item())
            error.append((made[:, flat].mean(1) - color).abs().mean().item())
    return {"std": sum(noise) / len(noise), "error": sum(error) / len(error), "n": len(noise)}


def score_scenes(imagen: Imagen, count: int, sheets: str | None) -> Row:
    """Return the figures of the cascade of scenes, on held-out combinations."""
    samples = [ShapesDataset("heldout", "scenes", SIDE, SCENES_SEED)[i] for i in range(count)]
    result, images = evaluate(imagen, samples, Judge.load("scenes"))
    training = ShapesDataset("train", "scenes", SIDE)
    compared = KNOWN_SCENES if count > QUICK_COUNT else QUICK_KNOWN
    known = stack_images([training[i] for i in range(compared)])
    generated, real = images[-1], stack_images(samples)
    write_sheet(sheets, "scenes", samples, [real, generated])
    closest = known[neighbors(generated, known).row]
    write_sheet(sheets, "scenes_nearest", samples, [generated, closest])
    row = {
        "n": count,
        "generated": result.stages[-1] | {"fully_correct": result.stages[-1]["all"]},
        "interval": list(result.interval),
        "real": result.real[-1] | {"fully_correct": result.real[-1]["all"]},
        "shuffled": result.shuffled | {"fully_correct": result.shuffled["all"]},
        "copies": neighbors(generated, known).copies,
        "copies_real": neighbors(real, known).copies,
    }
    return {"held_out": row}


def generate(imagen: Imagen, samples: Sequence[Sample]) -> Tensor:
    """Return an image for each caption, uint8 [n 3 h w]; image i has the seed i."""
    captions = [sample.caption for sample in samples]
    batches = imagen.sample_batches(
        captions, imagen.samplings(), range(len(captions)), batch_size=50, precision="auto"
    )
    return torch.cat([to_uint8(images[-1]) for images in batches])


def neighbors(images: Tensor, known: Tensor) -> Nearest:
    """Return the nearest of ``known``, by pixels at 8 px."""
    return nearest(small_pixels(images), small_pixels(known))


def first_image_seconds(directory: Path, caption: str) -> float:
    """Return how long the command takes from its start to the image on disk."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "inference.py", "-d", str(directory.resolve()), "-c", caption]
        started = time.perf_counter()
        subprocess.run(
            [*command, "-o", os.path.join(out, "images")],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - started


def write_sheet(
    where: str | None, name: str, samples: Sequence[Sample], columns: Sequence[Tensor]
) -> None:
    """Write a contact sheet of the first samples: their images of all columns side by side."""
    if where is None:
        return
    Path(where).mkdir(parents=True, exist_ok=True)
    images = [to_pil(to_model_space(each[:ON_SHEET])) for each in columns]
    captions = [sample.caption for sample in samples[:ON_SHEET]]
    save_png(Path(where) / f"{name}.png", contact_sheet(captions, images))


def fingerprint_of(directory: Path) -> str:
    """Return eight characters that change with the weights or with how they are sampled."""
    opened = TrainingDirectory.open(directory)
    digest = hashlib.sha256()
    for path in sorted([*opened.state_dicts.glob("*"), *opened.parameters.glob("unet_*.json")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def figures_of(what: str, weights: str, results: Path = RESULTS) -> str:
    """Return the newest figures of these weights as a table; where there are none, the command."""
    rows = [r for r in read_rows("bundled", results) if r["case"]["what"] == what]
    rows = [r for r in rows if r["case"]["weights"] == weights]
    if not rows:
        return f"Not measured yet: `python -m benchmarks.bundled --only {what}`."
    row = rows[-1]
    parts = {name: row[name] for name in ("training", "held_out") if name in row}
    lines = ["| | n | generated | real | shuffled captions |", "|---|---|---|---|---|"]
    for name, part in parts.items():
        for key, value in part["generated"].items():
            if key == "all":  # the same as fully correct
                continue
            cells = [value, part["real"][key], part["shuffled"].get(key)]
            shares = " | ".join("-" if c is None else f"{100 * c:.1f} %" for c in cells)
            label = f"{name.replace('_', '-')} captions: {key.replace('_', ' ')}"
            lines.append(f"| {label} | {part['n']} | {shares} |")
        copies = f"{100 * part['copies']:.1f} % | {100 * part['copies_real']:.1f} % | -"
        lines.append(f"| {name.replace('_', '-')} captions: copies | | {copies} |")
    facts = [f"{row['date']}, {row['machine']['name']}, first image after "
             f"{row['first_image_seconds']:.1f} s"]  # fmt: skip
    for name, part in parts.items():
        if "background" in part:
            measured = part["background"]
            facts.append(
                f"background of {name.replace('_', '-')} images: standard deviation "
                f"{measured['std']:.1f}/255, off by {measured['error']:.1f}/255"
            )
    return "\n".join([*lines, "", "; ".join(facts) + "."])


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Return the cascades to score."""
    count = QUICK_COUNT if arguments.quick else arguments.count
    todo = []
    for what in arguments.only:
        directory = arguments.directory or ROOT / "pretrained" / what
        todo.append(
            {
                "what": what,
                "count": count,
                "directory": os.path.relpath(directory, ROOT),
                "weights": fingerprint_of(directory),
                "sheets": arguments.sheets,
            }
        )
    return todo


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=BUNDLED, default=list(BUNDLED))
    parser.add_argument("--directory", type=Path, help="another cascade, with one --only")
    parser.add_argument("--count", type=int, default=COUNT, help=f"captions [{COUNT}]")
    parser.add_argument("--sheets", help="folder of the contact sheets [none]")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    return run_cases("benchmarks.bundled", cases(arguments), measure, arguments)


if __name__ == "__main__":
    main()
