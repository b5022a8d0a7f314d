"""``python -m minimagen evaluate``: how good is a cascade, beside real images?"""

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimagen.checked import PositiveInt, per_stage
from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser
from minimagen.cli.table import table
from minimagen.cli.threads import use_free_cores
from minimagen.config import DataConfig
from minimagen.config.data import ShapesSplit, is_embedded
from minimagen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from minimagen.evaluation.evaluate import Evaluation
    from minimagen.evaluation.judge import Judge
    from minimagen.evaluation.sets import Sets
    from minimagen.evaluation.study import Study
    from minimagen.imagen import Imagen
    from minimagen.sample import Sample
    from minimagen.storage.directory import TrainingDirectory
    from minimagen.storage.figures import Record

BATCH = 50  # images sampled at once
DRAWN: dict[str, Any] = {"SPLIT": "heldout", "SEED": 1, "JUDGE": None}
"""What is of the embedded data alone, and its defaults."""
OPTIONS = {
    "what to sample": (
        options.TRAINING_DIRECTORY,
        options.WEIGHTS,
        Option("DATASET", "ds", "Data to evaluate on", shown="the training's"),
        options.CAPTION_COLUMN,
        Option("COUNT", "n", "Captions to sample", PositiveInt, 200),
        Option("SPLIT", "sp", "Combinations of attributes", ShapesSplit, DRAWN["SPLIT"]),
        options.CONFIGURED["SEED"].but(
            help="Seed of the captions; image i has seed i", default=DRAWN["SEED"]
        ),
        Option("JUDGE", "ju", "Judge that tools/train_judge.py made, for digits of files", Path,
               shown="the bundled one"),
        Option("CLIP", "cl", "Training directory with a CLIP that says how well images fit their "
               "captions, not the one that conditions", Path, shown="none"),
    ),
    "measuring": (
        Option("FEATURES", "fe", "Network for distances: folder or hub id of a vision transformer, "
               "such as facebook/dinov2-small", shown="a bundled judge"),
    ),
    "sampling": options.SAMPLING,
    "run": (
        options.DEVICE,
        options.PRECISION,
        Option("OUTPUT", "out", "Folder for evaluation.json and report.html", Path,
               shown="the training directory"),
        Option("SHEET", "o", "PNG for the first 50 images with captions", Path),
    ),
}  # fmt: skip
EXAMPLES = """  python -m minimagen evaluate -d training_20261120_220000
  python -m minimagen evaluate --SPLIT tune --GUIDANCE_SCALE 5,1
  python -m minimagen evaluate --DATASET my_images --COUNT 1000 --FEATURES facebook/dinov2-small"""


def main(argv: Sequence[str]) -> int:
    """Evaluate; return the exit code."""
    parser = Parser("python -m minimagen evaluate", __doc__ or "", EXAMPLES, OPTIONS)
    arguments = parser.parse(argv, bare=options.TRAINING_DIRECTORY)
    if arguments.SHEET is not None and arguments.SHEET.suffix.lower() != ".png":
        raise UserError(f"--SHEET {arguments.SHEET}: the sheet is a PNG; end its name in .png")
    use_free_cores()  # before torch is imported
    from minimagen.device import resolve_device
    from minimagen.imagen import Imagen
    from minimagen.storage.directory import TrainingDirectory
    from minimagen.storage.model_hash import model_hash

    directory = TrainingDirectory.chosen(arguments.TRAINING_DIRECTORY)
    data, started = _data(directory, arguments), time.perf_counter()
    _check_drawn(data, arguments)
    out = directory.results(arguments.OUTPUT)
    device = resolve_device(arguments.DEVICE)
    imagen = Imagen.from_directory(directory.path, weights=arguments.WEIGHTS).to(device)
    digest = model_hash(directory, arguments.WEIGHTS)
    result, sets = _studied(imagen, data, arguments)
    seconds = time.perf_counter() - started
    print(f"{directory}: {arguments.COUNT} {sets.split} captions, {seconds:.0f} s")
    for note in (note for stage in imagen.stages for note in stage.notes()):
        print(note)
    print(_text(result, [f"{h} x {w}" for h, w in imagen.config.image_sizes]))
    stages = len(imagen.stages)
    record = result.record.replace(
        weights=tuple(per_stage("`weights`", arguments.WEIGHTS, stages)),
        model=digest,
        captions_seed=arguments.SEED,
    )
    _write(directory, out, result, record)
    if arguments.SHEET is not None:
        _write_sheet(arguments.SHEET, sets.held_out, result.images, _judge(sets, arguments))
    return 0


def _data(directory: "TrainingDirectory", arguments: Namespace) -> DataConfig:
    """Return what to evaluate on: the training's data, or another set with the defaults."""
    from minimagen.evaluation.trained_on import data_of
    from minimagen.storage.directory import read_imagen_config

    if not read_imagen_config(directory.parameters).stages:
        raise UserError(f"{directory} has no stage that makes images: there is nothing to evaluate")
    return data_of(directory.parameters, arguments.DATASET, arguments.CAPTION_COLUMN)


def _check_drawn(data: DataConfig, arguments: Namespace) -> None:
    """Refuse for other data what is of the embedded data alone."""
    for name, usual in DRAWN.items():
        if getattr(arguments, name) != usual and not is_embedded(data.dataset):
            raise UserError(f"--{name} is for the embedded data; leave it out with {data.dataset}")


def _studied(imagen: "Imagen", data: DataConfig, arguments: Namespace) -> "tuple[Study, Sets]":
    """Open the data, sample and measure."""
    from minimagen.evaluation.choice import independent_clip
    from minimagen.evaluation.features import open_features
    from minimagen.evaluation.sampler import Sampler
    from minimagen.evaluation.sets import drawn_sets, read_sets
    from minimagen.evaluation.study import study

    samplings = imagen.samplings(**options.sampling_changes(arguments))
    count = arguments.COUNT
    if is_embedded(data.dataset):
        side = imagen.config.image_sizes[-1][1]
        sets = drawn_sets(data, arguments.SPLIT, side, count, arguments.SEED)
    else:
        sets = read_sets(data, imagen.config, count)
    features = open_features(arguments.FEATURES, sets.level, imagen.device)
    clip = None if arguments.CLIP is None else independent_clip(arguments.CLIP, imagen)
    judge = _judge(sets, arguments)
    how = {"batch_size": BATCH, "precision": arguments.PRECISION}
    return study(Sampler(imagen, samplings, 0, how), sets, features, judge, clip), sets


def _judge(sets: "Sets", arguments: Namespace) -> "Judge | None":
    """Return the judge of the embedded data; None for other data."""
    from minimagen.evaluation.judge import Judge

    return Judge.load(sets.level, arguments.JUDGE) if sets.level else None


def _text(result: "Study", sizes: Sequence[str]) -> str:
    """Return everything that was found as text."""
    from minimagen.storage.figures import HEADINGS, cells

    judged = [_verdicts(result.judged, sizes)] if result.judged else []
    figures = table([HEADINGS, *cells(result.record.figures)])
    features = f"distances in features of {result.record.features}"
    return "\n".join([*judged, figures, features, *result.record.verdicts])


def _write(directory: "TrainingDirectory", out: Path, result: "Study", record: "Record") -> None:
    """Write evaluation.json, its sheets and the report."""
    from minimagen.evaluation.figures import write_sheets
    from minimagen.evaluation.report import write_report
    from minimagen.storage.figures import write_record

    write_record(out, record)
    write_sheets(out, result.found.sheets)
    print(f"{out / 'evaluation.json'}, {write_report(directory, out)}")


def _verdicts(result: "Evaluation", sizes: Sequence[str]) -> str:
    """Return as text what the judge says; the table of figures has all else."""
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
    return "\n".join(lines)


def _write_sheet(
    path: Path, samples: "Sequence[Sample]", images: "Sequence[Tensor]", judge: "Judge | None"
) -> None:
    """Write the first 50 images, each with its caption and, with a judge, its wrong answers."""
    from minimagen.images import to_model_space, to_pil
    from minimagen.storage.image_files import contact_sheet
    from minimagen.storage.metadata import save_png

    stages = [to_pil(to_model_space(stage[:50])) for stage in images]
    lines = [sample.caption for sample in samples[:50]]
    if judge is not None:
        verdicts = judge(images[-1][:50])
        for i, sample in enumerate(samples[:50]):
            answers = {name: verdicts[name][i] for name in verdicts if name in sample.attributes}
            wrong = [f"{k}: {v}" for k, v in answers.items() if v != sample.attributes[k]]
            lines[i] += f" [{', '.join(wrong) or 'ok'}]"
    save_png(path, contact_sheet(lines, stages))
