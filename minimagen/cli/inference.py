"""``inference.py``: a caption, or a file of captions -> pictures."""

import argparse
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimagen.cli.arguments import (
    Flag,
    at_least_zero,
    build_parser,
    level,
    natural,
    parse,
    positive_int,
    run,
    several,
)
from minimagen.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLERS = ("ddpm", "ddim", "dpm++", "heun")


def aspect_ratio(text: str) -> float:
    """Return width : height, given as such or as one number."""
    width, _, height = text.partition(":")
    try:
        ratio = float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0 < ratio < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not width:height, such as 3:2")
    return ratio


def sampler(text: str) -> str:
    """Return the name of a sampler."""
    if text not in SAMPLERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(SAMPLERS)}")
    return text


SAMPLING_FLAGS = (
    Flag("TIMESTEPS", "t", several(positive_int), "sampling steps: one number, or one per stage"),
    Flag("GUIDANCE_SCALE", "g", several(at_least_zero), "w, 1 = off: one number, or one per stage"),
    Flag("SAMPLER", "sa", several(sampler), f"{', '.join(SAMPLERS)}: one, or one per stage"),
    Flag("AUG_LEVEL", "al", several(level), "noise time of the low-resolution pictures, 0 to 1"),
    Flag("DEVICE", "dev", str, "auto, cuda, cuda:1, mps or cpu [auto]"),
    Flag("PRECISION", "pr", str, "auto: bf16 where native [auto]", ("auto", "fp32", "bf16")),
)
FLAGS = (
    Flag("TRAINING_DIRECTORY", "d", Path, "what train.py made [the newest one here]"),
    Flag("CAPTIONS", "c", str, "a caption, or a .txt file with one per line [the sample sheet's]"),
    Flag("IMAGES_PER_CAPTION", "n", positive_int, "pictures of each caption [1]"),
    Flag("SEED", "sd", natural, "picture i gets SEED + i [a fresh one]"),
    *SAMPLING_FLAGS,
    Flag("ASPECT_RATIO", "ar", aspect_ratio, "width:height of the pictures [the cascade's own]"),
    Flag("BATCH_SIZE", "b", positive_int, "pictures painted at once [64]"),
    Flag("OFFLOAD", "off", None, "keep one stage at a time on the device"),
    Flag("OUTPUT", "o", Path, "the directory to write [generated_images_<time>]"),
)
EXAMPLES = """  python inference.py --CAPTIONS "a large red star on a blue background"
  python inference.py --CAPTIONS captions.txt --TRAINING_DIRECTORY training_20261120_220000
  python inference.py -c "a small green heart on pink" -n 4 -g 5,1 -t 50,20 --SEED 7"""


def read_captions(given: str) -> list[str]:
    """Return the captions of a ``.txt`` file (blank lines skipped), or the caption itself.

    Each on one line, with single spaces between its words: so line i of what is written beside the
    pictures belongs to picture i.

    Raises:
        UserError: If the file is missing, empty or not UTF-8, or the caption is blank.
    """
    if not given.lower().endswith(".txt"):
        if not given.strip():
            raise UserError("--CAPTIONS is blank; give a caption or a .txt file of captions")
        return [" ".join(given.split())]
    try:
        lines = Path(given).read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read captions file {given}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"captions file {given} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    captions = [" ".join(line.split()) for line in lines if line.strip()]
    if not captions:
        raise UserError(f"captions file {given} has no captions; write one per line")
    return captions


def main(argv: Sequence[str]) -> int:
    """Paint; return the exit code."""
    parser = build_parser("inference.py", __doc__ or "", EXAMPLES, FLAGS)
    arguments = parse(parser, FLAGS, argv)
    captions = None if arguments.CAPTIONS is None else read_captions(arguments.CAPTIONS)
    from minimagen.storage.directory import TrainingDirectory

    if arguments.TRAINING_DIRECTORY is None:
        directory = TrainingDirectory.newest()
        print(f"training directory: {directory} (the newest one here)")
    else:
        directory = TrainingDirectory.open(arguments.TRAINING_DIRECTORY)
    if captions is None:
        captions = read_captions(str(directory.sample_captions))
        print(f"captions: those of the sample sheet, {directory.sample_captions}")
    paint(arguments, directory.path, captions)
    return 0


def paint(arguments: argparse.Namespace, directory: Path, captions: Sequence[str]) -> Path:
    """Paint ``captions`` and write them; return the output directory."""
    from minimagen.device import resolve_device
    from minimagen.imagen import Imagen
    from minimagen.storage.directory import new_output, read_parameters
    from minimagen.storage.image_files import contact_sheet, save_sheet

    device = resolve_device(arguments.DEVICE or "auto")
    imagen = Imagen.from_directory(directory)
    imagen.text_encoder.to(device)
    if not arguments.OFFLOAD:
        imagen.to(device)
    if arguments.ASPECT_RATIO and not read_parameters(directory / "parameters").data.aspect_buckets:
        print("trained on pictures of one shape only (no --ASPECT_BUCKETS): others may look wrong")
    samplings = imagen.samplings(
        arguments.GUIDANCE_SCALE, arguments.TIMESTEPS, arguments.SAMPLER, arguments.AUG_LEVEL
    )
    output = new_output(arguments.OUTPUT, "generated_images")
    seed = secrets.randbits(32) if arguments.SEED is None else arguments.SEED
    captions = [c for c in captions for _ in range(arguments.IMAGES_PER_CAPTION or 1)]
    seeds = range(seed, seed + len(captions))
    stages = imagen.sample_stages(
        captions,
        samplings,
        seeds=seeds,
        aspect_ratio=arguments.ASPECT_RATIO,
        batch_size=arguments.BATCH_SIZE or 64,
        precision=arguments.PRECISION or "auto",
        device=device if arguments.OFFLOAD else None,
    )
    settings = [sampling.model_dump(mode="json") for sampling in samplings]
    write_images(output, directory, captions, seeds, stages[-1], settings)
    save_sheet(output / "grid.png", contact_sheet(captions, stages[-1:]))
    if imagen.text_encoder.cut_captions:
        print(
            f"{imagen.text_encoder.cut_captions} of the captions were cut to "
            f"{imagen.config.max_num_words} tokens"
        )
    width, height = stages[-1][0].size
    print(f"{len(captions)} images, {width} x {height}: {output / 'generated_images'}")
    print(f"grid: {output / 'grid.png'} (seed {seed})")
    return output


def write_images(
    output: Path,
    directory: Path,
    captions: Sequence[str],
    seeds: Sequence[int],
    images: Sequence["Image"],
    settings: list[dict[str, Any]],
) -> None:
    """Write ``generated_images/image_<i>.png``, captions.txt, images.jsonl and where from."""
    folder = output / "generated_images"
    try:
        folder.mkdir(parents=True)
        rows = []
        for i, (caption, seed, image) in enumerate(zip(captions, seeds, images, strict=True)):
            name = f"image_{i}.png"
            image.save(folder / name)
            told = {"file_name": name, "text": caption, "seed": seed, "size": image.size}
            rows.append(told | {"stages": settings})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (output / "images.jsonl").write_text(lines, "utf-8")
        (output / "captions.txt").write_text("\n".join(captions) + "\n", "utf-8")
        (output / "imagen_training_directory.txt").write_text(str(directory), "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}") from None


def entry(argv: Sequence[str] | None = None) -> int:
    """Run ``inference.py``."""
    return run(main, argv)
