"""``python -m minimagen evaluate``: how often do the images show what their captions say?"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minimagen.checked import PositiveInt
from minimagen.cli import options
from minimagen.cli.arguments import Parser
from minimagen.cli.options import Option
from minimagen.cli.table import table
from minimagen.config.data import ShapesSplit, is_embedded
from minimagen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from minimagen.evaluation.evaluate import Evaluation
    from minimagen.evaluation.judge import Judge
    from minimagen.imagen import Imagen
    from minimagen.sample import Sample

OPTIONS = {
    "what to sample": (
        options.TRAINING_DIRECTORY,
        options.WEIGHTS,
        Option("COUNT", "n", "Captions to sample", PositiveInt, 200),
        Option("SPLIT", "sp", "Combinations of attributes", ShapesSplit, "heldout"),
        options.CONFIGURED["SEED"].but(help="Seed of the captions; image i has seed i", default=1),
        Option(
            "JUDGE",
            "ju",
            "Judge that tools/train_judge.py made, for digits of files",
            Path,
            shown="the bundled one",
        ),
        Option(
            "CLIP",
            "cl",
            "Training directory with a CLIP that says how well images fit their "
            "captions, not the one that conditions",
            Path,
            shown="none",
        ),
    ),
    "sampling": options.SAMPLING,
    "run": (
        options.DEVICE,
        options.PRECISION,
        Option("SHEET", "o", "PNG for the first 50 images with verdicts", Path),
    ),
}
EXAMPLES = """  python -m minimagen evaluate -d training_20261120_220000
  python -m minimagen evaluate --SPLIT tune --GUIDANCE_SCALE 5,1"""


def main(argv: Sequence[str]) -> int:
    """Evaluate; return the exit code."""
    program = "python -m minimagen evaluate"
    arguments = Parser(program, __doc__ or "", EXAMPLES, OPTIONS).parse(argv)
    if arguments.SHEET is not None and arguments.SHEET.suffix.lower() != ".png":
        raise UserError(f"--SHEET {arguments.SHEET}: the sheet is a PNG; end its name in .png")
    from minimagen.device import resolve_device
    from minimagen.evaluation.evaluate import evaluate
    from minimagen.evaluation.judge import Judge
    from minimagen.imagen import Imagen
    from minimagen.shapes.dataset import embedded
    from minimagen.storage.directory import TrainingDirectory, read_parameters

    given = arguments.TRAINING_DIRECTORY
    directory = TrainingDirectory.open(given) if given else TrainingDirectory.newest()
    parameters = read_parameters(directory.parameters)
    name, column = parameters.data.dataset, parameters.data.caption_column
    if not parameters.imagen.stages:
        raise UserError(f"{directory} has no stage that makes images: there is nothing to evaluate")
    if not is_embedded(name):
        raise UserError(f"{directory} was trained on {name}: only the embedded data has a judge")
    device = resolve_device(arguments.DEVICE)
    imagen = Imagen.from_directory(directory.path, weights=arguments.WEIGHTS).to(device)
    height, width = imagen.config.image_sizes[-1]
    assert height == width, "the embedded data is square"
    split, count = arguments.SPLIT, arguments.COUNT
    options_of = {"split": split, "size": height, "seed": arguments.SEED, "epoch_size": count}
    options_of |= {"caption_column": column}
    dataset = embedded(name, **options_of)
    samples = list(dataset)
    judge = Judge.load(dataset.key, arguments.JUDGE)
    samplings = imagen.samplings(**options.sampling_changes(arguments))
    precision, started = arguments.PRECISION, time.perf_counter()
    result, images = evaluate(imagen, samples, judge, split, samplings, precision=precision)
    print(f"{directory}: {count} {split} captions, {time.perf_counter() - started:.0f} s")
    for note in (note for stage in imagen.stages for note in stage.notes()):
        print(note)
    print(text_of(result, [f"{h} x {w}" for h, w in imagen.config.image_sizes]))
    if arguments.CLIP is not None:
        _print_alignment(arguments.CLIP, imagen, samples, images[-1])
    if arguments.SHEET is not None:
        _write_sheet(arguments.SHEET, samples, images, judge)
    return 0


def text_of(result: "Evaluation", sizes: Sequence[str]) -> str:
    """Return the evaluation as text."""
    names = list(result.stages[-1])
    measured = {f"judge on real, {size}": s for size, s in zip(sizes, result.real, strict=True)}
    measured["shuffled captions"] = result.shuffled
    measured |= {f"sampled, {size}": s for size, s in zip(sizes, result.stages, strict=True)}
    rows = [["per cent correct", *names]]
    for heading, scores in measured.items():
        rows += [[heading, *(f"{100 * scores[n]:.1f}" if n in scores else "-" for n in names)]]
    low, high = result.interval
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
    lines = [table(rows), f"fully correct at {sizes[-1]}: {interval}"]
    for size, scores in zip(sizes, result.looks, strict=True):
        lines.append(
            f"look at {size}: kernel distance x 1000 {scores['kernel']:.0f}, grain "
            f"{scores['grain']:.1f}/255 (real images: {scores['grain_real']:.1f})"
        )
    for size, scores in zip(sizes[1:], result.super_resolution, strict=True):
        lines.append(
            f"super-resolution to {size}: color shift {scores['color_shift']:.2f}/255, "
            f"down-sampled against its input {scores['psnr_input']:.1f} dB; real images: "
            f"{scores['psnr_truth']:.2f} dB to the truth, bicubic {scores['psnr_bicubic']:.2f} dB"
        )
    return "\n".join(lines)


def _print_alignment(
    directory: Path, imagen: "Imagen", samples: "Sequence[Sample]", images: "Tensor"
) -> None:
    """Print what a CLIP says of the images, and of real ones of the same captions."""
    from minimagen.evaluation.choice import independent_clip
    from minimagen.evaluation.clip import alignment, caption_vectors, image_vectors, vectors_of

    clip = independent_clip(directory, imagen)
    captions = [sample.caption for sample in samples]
    texts = caption_vectors(clip, captions)
    for name, vectors in (
        ("generated", vectors_of(clip, images)),
        ("real", image_vectors(clip, samples)),
    ):
        found = alignment(vectors, texts, captions)
        print(
            f"{name} images in {directory}: alignment {found['alignment']:.3f}, R-precision "
            f"{100 * found['r_precision']:.1f} % (n {len(samples)})"
        )


def _write_sheet(
    path: Path, samples: "Sequence[Sample]", images: "Sequence[Tensor]", judge: "Judge"
) -> None:
    """Write the first 50 images, each with its caption and the judge's wrong answers."""
    from minimagen.images import to_model_space, to_pil
    from minimagen.storage.image_files import contact_sheet
    from minimagen.storage.metadata import save_png

    stages = [to_pil(to_model_space(stage[:50])) for stage in images]
    verdicts = judge(images[-1][:50])
    lines = []
    for i, sample in enumerate(samples[:50]):
        answers = {name: verdicts[name][i] for name in verdicts if name in sample.attributes}
        wrong = [f"{k}: {v}" for k, v in answers.items() if v != sample.attributes[k]]
        lines.append(f"{sample.caption} [{', '.join(wrong) or 'ok'}]")
    save_png(path, contact_sheet(lines, stages))
