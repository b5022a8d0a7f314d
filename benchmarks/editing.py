"""What is promised of sampling again and of editing, measured with a trained cascade.

    python -m benchmarks.editing
    python -m benchmarks.editing --what border,interpolation -d training_20261128_120000
    python -m benchmarks.editing --what upscale -d pretrained/scenes

again           images that their own PNG files make again, by ``inference.py --FROM_IMAGE``
batch           the largest difference of an image in batches of 1, 7 and 64, of 255
strength        mean difference to the image that was given, of 255, by strength: with its own
                caption, and with that of another image
border          change across the border of what was inpainted, over that inside: the gradient
interpolation   largest step between two frames over the median one, seeds and captions
upscale         PSNR, dB, and SSIM of small images enlarged by super-resolution, and by bicubic
                interpolation; held-out drawn images, ``pretrained/scenes`` without ``-d``
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import ROOT, Case, Row, answer, build_parser, names_of, run_cases
from minimagen import Imagen, editing
from minimagen.between import unevenness
from minimagen.cli import inference
from minimagen.data.loading.reading import stack_images
from minimagen.evaluation.metrics import ssim
from minimagen.images import psnr, resize_clamped, to_model_space, to_pil
from minimagen.shapes.dataset import embedded
from minimagen.storage.directory import read_parameters

SIDE_KEPT = 4  # a quarter of the side around what is inpainted is kept
RESAMPLE = (1, 2, 4, 8)
STRENGTHS = (0.02, 0.1, 0.3, 0.6, 1.0)
FRAMES = 9
EMOJI, SCENES = (ROOT / "pretrained" / name for name in ("emoji", "scenes"))


def captions_of(directory: Path, count: int) -> list[str]:
    """Return the captions of the sample sheet, as often as needed."""
    lines = (directory / "samples" / "captions.txt").read_text("utf-8").splitlines()
    return [lines[i % len(lines)] for i in range(count)]


def again(case: Case) -> Row:
    """Sample images with the command line, and each one again from its file alone."""
    directory, count = Path(case["directory"]), case["images"]
    with tempfile.TemporaryDirectory() as place:
        file, out = Path(place) / "captions.txt", Path(place) / "out"
        file.write_text("\n".join(captions_of(directory, count)))
        inference.main(["-c", str(file), "-d", str(directory), "--OUTPUT", str(out), "-b", "16"])
        images = sorted((out / "generated_images").glob("*.png"))
        same = 0
        for i, image in enumerate(images):
            one = Path(place) / f"again_{i}"
            inference.main(["--FROM_IMAGE", str(image), "-d", str(directory), "-o", str(one)])
            (made,) = (one / "generated_images").glob("*.png")
            same += made.read_bytes() == image.read_bytes()
    return {"images": len(images), "equal": same}


def batch(case: Case) -> Row:
    """Compare images in other batches, in the precision of the case."""
    imagen, count = Imagen.from_directory(case["directory"]), case["images"]
    captions = captions_of(Path(case["directory"]), count)
    made = [
        imagen.sample(
            captions, seed=0, batch_size=size, precision=case["precision"], output_type="pt",
            progress=False,
        )
        for size in (1, 7, 64)
    ]  # fmt: skip
    bytes_of = [(255 * images).round() for images in made]
    apart = [float((one - other).abs().max()) for one, other in pairwise([*bytes_of, bytes_of[0]])]
    return {"images": count, "largest": max(apart)}


def strength(case: Case) -> Row:
    """Measure how far images are from what they began with."""
    imagen, count = Imagen.from_directory(case["directory"]), case["images"]
    captions = captions_of(Path(case["directory"]), count)
    before = imagen.sample(captions, seed=0, progress=False)
    others = [*captions[1:], captions[0]]
    row: Row = {"images": count}
    for name, asked in (("mean_difference", captions), ("of_another_caption", others)):
        row[name] = {}
        for much in STRENGTHS:
            after = editing.image_to_image(imagen, asked, before, much, seed=1000, progress=False)
            row[name][str(much)] = float(np.abs(_pixels(after) - _pixels(before)).mean())
    return row


def border(case: Case) -> Row:
    """Compare the gradient across the border of a square with that inside of it."""
    imagen, count = Imagen.from_directory(case["directory"]), case["images"]
    captions = captions_of(Path(case["directory"]), count)
    before = imagen.sample(captions, seed=0, progress=False)
    other = imagen.sample(captions, seed=1000, progress=False)
    kept = before[0].width // SIDE_KEPT
    box = kept, kept, before[0].width - kept, before[0].height - kept
    mask = Image.new("L", before[0].size)
    mask.paste(255, box)
    pasted = []
    for image, new in zip(before, other, strict=True):
        pasted.append(image.copy())
        pasted[-1].paste(new.crop(box), box)
    ratios = {"as it was": _ratio(before, kept), "pasted": _ratio(pasted, kept)}
    for times in RESAMPLE:
        made = editing.inpaint(
            imagen, captions, before, [mask] * count, seed=1000, resample=times, progress=False
        )
        ratios[f"inpainted, each step {times} x"] = _ratio(made, kept)
    return {"images": count, "border_over_inside": ratios}


def _ratio(images: Sequence[Image.Image], kept: int) -> float:
    """Return the mean gradient at the border of what was inpainted, over that inside of it."""
    x = _pixels(images)
    if x.shape[1] != x.shape[2]:
        raise ValueError("the images are not square")
    end = x.shape[1] - kept
    across = [
        np.abs(np.diff(each, axis=1)[:, [kept - 1, end - 1], kept:end]).mean()
        for each in (x, x.swapaxes(1, 2))
    ]
    inner = x[:, kept:end, kept:end]
    inside = [np.abs(np.diff(inner, axis=axis)).mean() for axis in (1, 2)]
    return float(np.mean(across) / np.mean(inside))


def interpolation(case: Case) -> Row:
    """Measure the largest of the steps between frames, over the median one."""
    imagen, count = Imagen.from_directory(case["directory"]), case["images"]
    captions = captions_of(Path(case["directory"]), count + 1)
    ends = list(pairwise(captions))
    found: dict[str, list[float]] = {"seeds": [], "embeddings divided evenly": [], "captions": []}
    for i, (first, last) in enumerate(ends):
        frames = editing.interpolate_seeds(imagen, first, i, i + 100, FRAMES, progress=False)
        found["seeds"].append(unevenness(frames))
        for name, rounds in (("embeddings divided evenly", 1), ("captions", 4)):
            frames = editing.interpolate_captions(
                imagen, first, last, FRAMES, seed=i, rounds=rounds, progress=False
            )
            found[name].append(unevenness(frames))
    return {
        name: {"median": statistics.median(each), "largest": max(each), "n": len(each)}
        for name, each in found.items()
    }


def upscale(case: Case) -> Row:
    """Enlarge held-out images that were made small, and compare with what they were."""
    imagen, count = Imagen.from_directory(case["directory"]), case["images"]
    data = read_parameters(Path(case["directory"]) / "parameters").data
    size, low_size = imagen.config.image_sizes[1], imagen.config.image_sizes[0]
    drawn = embedded(data.dataset, split="heldout", epoch_size=count, size=size[0])
    samples = list(drawn)
    truth = to_model_space(stack_images(samples))
    low_res = resize_clamped(truth, low_size)
    captions = [sample.caption for sample in samples]
    given = to_pil(low_res)
    low_res = editing.as_tensor(given, low_size)  # as files have it, for both sides
    enlarged = editing.upscale(imagen, captions, given, seed=0, progress=False)
    made = to_model_space(torch.from_numpy(_pixels(enlarged)).permute(0, 3, 1, 2).to(torch.uint8))
    sides = {"super-resolution": made, "bicubic": resize_clamped(low_res, size)}
    return {
        "images": count,
        "psnr": {name: float(psnr(each, truth).mean()) for name, each in sides.items()},
        "ssim": {name: float(ssim(each, truth).mean()) for name, each in sides.items()},
    }


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, np.float64) for image in images])


WHAT: dict[str, Callable[[Case], Row]] = {
    "again": again,
    "batch": batch,
    "strength": strength,
    "border": border,
    "interpolation": interpolation,
    "upscale": upscale,
}
COUNTS = {
    "again": 100, "batch": 64, "strength": 24, "border": 60, "interpolation": 11, "upscale": 200,
}  # fmt: skip


def measure(case: Case, started: float) -> Row:
    """Measure one case."""
    del started
    torch.manual_seed(0)
    return WHAT[case["what"]](case)


def cases(what: Sequence[str], given: Path | None, quick: bool) -> Iterator[Case]:
    """Yield what is measured."""
    for name in what:
        directory = (given or (SCENES if name == "upscale" else EMOJI)).absolute()
        shown = directory.relative_to(ROOT) if directory.is_relative_to(ROOT) else directory
        case: dict[str, Any] = {"what": name, "directory": str(shown)}
        case["images"] = 2 if quick else COUNTS[name]
        if name != "batch":
            yield case
        else:
            yield from ({**case, "precision": each} for each in ("fp32", "auto"))


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and print."""
    parser = build_parser(__doc__)
    parser.add_argument(
        "--what", type=names_of(WHAT), help=f"of {', '.join(WHAT)} [all; with -d all but upscale]"
    )
    parser.add_argument("-d", "--directory", type=Path, help="[those of pretrained/]")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    what = [name for name in WHAT if name != "upscale" or arguments.directory is None]
    chosen = cases(arguments.what or what, arguments.directory, arguments.quick)
    rows = run_cases("benchmarks.editing", chosen, measure, arguments)
    for row in rows:
        print(row["case"]["what"], {k: v for k, v in row.items() if k not in ("case", "machine")})
    return rows


if __name__ == "__main__":
    main()
