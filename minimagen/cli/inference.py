"""``inference.py``: a caption, or a file of captions -> images."""

import argparse
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from minimagen.checked import PositiveInt
from minimagen.cli import options
from minimagen.cli.arguments import Parser, run
from minimagen.cli.options import Option
from minimagen.cli.settings import BUNDLED
from minimagen.cli.threads import use_free_cores
from minimagen.errors import UserError
from minimagen.progress import tqdm
from minimagen.storage.files import read_lines

if TYPE_CHECKING:
    from minimagen.storage.image_files import ImageFolder

OTHER_FILES = {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".md", ".text", ".caption", ".xlsx"}


def aspect_ratio(text: str) -> float:
    """Return width : height, given as such or as one number."""
    width, _, height = text.partition(":")
    try:
        ratio = float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0 < ratio < float("inf"):
        raise ValueError("must be width:height, such as 3:2")
    return ratio


OPTIONS = {
    "what to sample": (
        options.TRAINING_DIRECTORY.but(shown="the newest one here, else pretrained/emoji"),
        options.WEIGHTS,
        Option("CAPTIONS", "c", "Caption, or .txt file with one caption per line",
               shown="the sample sheet's", also=("prompt", "prompts", "text")),
        Option("IMAGES_PER_CAPTION", "n", "Images of each caption", PositiveInt, 1,
               also=("num_images", "num_samples")),
        Option("SEED", "sd", "Seed; image i has SEED + i", Annotated[int, Field(ge=0)],
               shown="a fresh one"),
        Option("BEST_OF", "bo", "Candidates of each image, of which the one nearest to the caption "
               "in a CLIP is kept", PositiveInt, 1),
        Option("CLIP", "cl", "For --BEST_OF: training directory with a CLIP, not the one that "
               "conditions", Path),
        Option("ASPECT_RATIO", "ar", "Width:height of the images",
               Annotated[float, BeforeValidator(aspect_ratio)], shown="the cascade's own"),
    ),
    "sampling": options.SAMPLING,
    "run": (
        options.DEVICE,
        options.PRECISION,
        Option("BATCH_SIZE", "b", "Images sampled at once", PositiveInt, 64),
        Option("OFFLOAD", "off", "Only one stage at a time on the device", bool),
        Option("OUTPUT", "o", "Directory to write", Path, shown="generated_images_<time>"),
    ),
}  # fmt: skip
EXAMPLES = """  python inference.py -c "a red apple, noto style, on a blue background"
  python inference.py --CAPTIONS "a large red star on a blue background"
  python inference.py --CAPTIONS captions.txt --TRAINING_DIRECTORY training_20261120_220000
  python inference.py -c "a small green heart on pink" -n 4 -g 5,1 -t 50,20 --SEED 7"""


def read_captions(given: str) -> list[str]:
    """Return the captions of a ``.txt`` file (blank lines skipped), or the caption itself.

    Words are separated by single spaces, so that each caption is one line of captions.txt.

    Raises:
        UserError: If the file is missing, empty, of another kind or not UTF-8, or the caption is
            blank.
    """
    kind = Path(given).suffix.lower()
    if kind != ".txt" and (kind in OTHER_FILES or os.path.isfile(given)):
        raise UserError(
            f"--CAPTIONS {given} is a file, but captions are read from .txt files only; "
            "write one caption per line into such a file"
        )
    lines = read_lines(Path(given)) if kind == ".txt" else [given]
    captions = [" ".join(line.split()) for line in lines if line.strip()]
    if not captions:
        where = f"{given} has no captions" if kind == ".txt" else "is blank"
        raise UserError(f"--CAPTIONS {where}; give a caption or a .txt file with one per line")
    return captions


def main(argv: Sequence[str]) -> int:
    """Sample; return the exit code."""
    arguments = Parser("inference.py", __doc__ or "", EXAMPLES, OPTIONS).parse(argv)
    if (arguments.BEST_OF > 1) != (arguments.CLIP is not None):
        raise UserError(
            "--BEST_OF and --CLIP belong together: how many candidates, and who chooses"
        )
    captions = None if arguments.CAPTIONS is None else read_captions(arguments.CAPTIONS)
    from minimagen.storage.directory import TrainingDirectory, read_imagen_config

    given = arguments.TRAINING_DIRECTORY
    directory = TrainingDirectory.open(given or TrainingDirectory.newest(otherwise=BUNDLED).path)
    if given is None:
        bundled = directory.path == BUNDLED
        which = "bundled: nothing is trained here" if bundled else "the newest one here"
        print(f"training directory: {directory} ({which})")
    if not read_imagen_config(directory.parameters).stages:
        raise UserError(
            f"{directory} has no stage that makes images: see python -m minimagen clip, or "
            "reconstruct for an autoencoder"
        )
    if captions is None:
        captions = read_captions(str(directory.sample_captions))
        print(f"captions: those of the sample sheet, {directory.sample_captions}")
    return sample(arguments, directory.path, captions)


def sample(arguments: argparse.Namespace, directory: Path, captions: Sequence[str]) -> int:
    """Sample ``captions`` and write each batch as soon as it is done; return the exit code.

    A first Ctrl-C is obeyed after the sampling step that it meets, so what is written is whole.
    """
    use_free_cores()  # before torch is imported
    from minimagen.device import resolve_device
    from minimagen.evaluation.choice import Choice
    from minimagen.imagen import Imagen
    from minimagen.images import to_pil
    from minimagen.storage.directory import new_output, read_parameter_values
    from minimagen.storage.image_files import ImageFolder
    from minimagen.training.interruption import Interrupted, StopSignals

    device = resolve_device(arguments.DEVICE)
    imagen = Imagen.from_directory(directory, weights=arguments.WEIGHTS)
    if not arguments.OFFLOAD:
        imagen.to(device)
    trained_on = read_parameter_values(directory / "parameters").get("data", {})
    if arguments.ASPECT_RATIO and not trained_on.get("aspect_buckets"):
        print("trained on images of one shape only (no --ASPECT_BUCKETS): others may look wrong")
    samplings = imagen.samplings(**options.sampling_changes(arguments))
    settings = {"stages": [sampling.model_dump(mode="json") for sampling in samplings]}
    choice = Choice(arguments.BEST_OF, arguments.CLIP, imagen, device)
    folder = ImageFolder(new_output(arguments.OUTPUT, "generated_images"), directory, settings)
    seed = secrets.randbits(32) if arguments.SEED is None else arguments.SEED
    wanted = [c for c in captions for _ in range(arguments.IMAGES_PER_CAPTION)]
    captions = [c for c in wanted for _ in range(arguments.BEST_OF)]
    seeds = range(seed, seed + len(captions))
    with (
        StopSignals() as signals,
        tqdm(total=len(captions), unit=" images", mininterval=1.0, miniters=0) as bar,
        suppress(Interrupted),
    ):

        def step_done(stage: int, step: int, steps: int, _: object) -> None:
            bar.set_postfix_str(f"stage {stage}, step {step + 1} of {steps}", refresh=False)
            bar.update(0)
            if signals.received:
                raise Interrupted(signals.received, "")

        for images in imagen.sample_batches(
            captions,
            samplings,
            seeds,
            aspect_ratio=arguments.ASPECT_RATIO,
            batch_size=arguments.BATCH_SIZE,
            precision=arguments.PRECISION,
            callback=step_done,
            device=device if arguments.OFFLOAD else None,
        ):
            for image in to_pil(images[-1]):
                if (chosen := choice.add(captions[choice.seen], image)) is not None:
                    number, image = chosen
                    folder.write(captions[number], seeds[number], image)
            bar.update(len(images[-1]))
    for note in (*imagen.text_encoder.notes(), *(n for s in imagen.stages for n in s.notes())):
        print(note)
    stopped = folder.written < len(wanted)
    _print_written(folder, len(wanted), seed)
    return 128 + (signals.received or 0) if stopped else 0


def _print_written(folder: "ImageFolder", wanted: int, seed: int) -> None:
    """Print how many images there are, and where; write the grid."""
    from minimagen.storage.image_files import GRID_IMAGES

    stopped = f"interrupted: {folder.written} of " if folder.written < wanted else ""
    print(f"{stopped}{wanted} images (seed {seed}): {folder.images}")
    if folder.written:
        width, height = folder.size
        first = f" (the first {GRID_IMAGES} images)" if folder.written > GRID_IMAGES else ""
        print(f"{width} x {height} px; grid{first}: {folder.write_grid()}")


entry = partial(run, main)
