"""``inference.py``: a caption, or a file of captions -> images."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minimagen.checked import per_stage
from minimagen.cli import editing
from minimagen.cli.arguments import Parser
from minimagen.cli.captions import Caption, read_captions
from minimagen.cli.flags import INFERENCE
from minimagen.cli.given import read_given, take_up
from minimagen.cli.running import run
from minimagen.cli.settings import BUNDLED, bundled_cascades
from minimagen.cli.threads import use_free_cores
from minimagen.cli.together import belong_together, kind_of, whole_again
from minimagen.errors import UserError
from minimagen.storage.files import read_lines

if TYPE_CHECKING:
    from minimagen.imagen import Imagen
    from minimagen.storage.directory import TrainingDirectory

EXAMPLES = """  python inference.py -c "a red apple, noto style, on a blue background"
  python inference.py --CAPTIONS captions.txt --TRAINING_DIRECTORY training_20261120_220000
  python inference.py -c "a cat face, noto style" -n 4 -g 5 -t 16 --SEED 7
  python inference.py --FROM_IMAGE image_0.png -g 4
  python inference.py -d stable-diffusion-v1-5 -c "a photograph of an astronaut on a horse" """
GOES_WITH_CONTINUE = {"CONTINUE", "DEVICE", "OFFLOAD", "TRAINING_DIRECTORY"}


def main(argv: Sequence[str]) -> int:
    """Sample; return the exit code."""
    arguments = Parser("inference.py", __doc__ or "", EXAMPLES, INFERENCE).parse(argv)
    _check_together(arguments)
    if arguments.CONTINUE is not None:
        return go_on(arguments)
    if arguments.FROM_IMAGE is not None:
        return again(arguments)
    if arguments.WEIGHTS is None:
        arguments.WEIGHTS = "final"
    captions = None if arguments.CAPTIONS is None else read_captions(arguments.CAPTIONS)
    directory = _directory(arguments)
    if captions is None and not directory.sample_captions.is_file():
        raise UserError(f"{directory} has no captions of its own: give --CAPTIONS")
    if captions is None:
        lines = map(str.strip, read_lines(directory.sample_captions))
        captions = [Caption(line) for line in lines if line]  # of the data: no options in them
        print(f"captions: those of the sample sheet, {directory.sample_captions}")
    return sample(arguments, directory, captions)


def _check_together(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if (arguments.BEST_OF > 1) != (arguments.CLIP is not None):
        raise UserError(
            "--BEST_OF and --CLIP belong together: how many candidates, and who chooses"
        )
    if arguments.SEEDS is not None and (
        arguments.SEED is not None or arguments.IMAGES_PER_CAPTION > 1
    ):
        raise UserError(
            "--SEEDS gives each caption one image for each seed; leave out --SEED and "
            "--IMAGES_PER_CAPTION"
        )
    given = _typed(arguments)
    edits = {option.name for option in editing.OPTIONS} - editing.WITH_FROM_IMAGE
    if "FROM_IMAGE" in given and (others := sorted(given & (edits | {"SEEDS", "BEST_OF"}))):
        raise UserError(f"--FROM_IMAGE is one image as it was; leave out --{', --'.join(others)}")
    editing.check(arguments, given)
    if "CONTINUE" in given and (others := sorted(given - GOES_WITH_CONTINUE)):
        raise UserError(
            f"--CONTINUE samples what was asked for then; leave out --{', --'.join(others)}"
        )


def _typed(arguments: argparse.Namespace) -> set[str]:
    """Return the names of the options whose values are not their defaults."""
    every = [option for group in INFERENCE.values() for option in group]
    return {o.name for o in every if getattr(arguments, o.name) != o.keywords.get("default", False)}


def _directory(arguments: argparse.Namespace) -> "TrainingDirectory":
    """Return the training directory that is given or found; a UserError if it makes no images."""
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
    return directory


def _load(arguments: argparse.Namespace, directory: Path) -> "Imagen":
    """Return the trained cascade, on its device unless one stage at a time is."""
    use_free_cores()  # before torch is imported
    from minimagen.device import resolve_device
    from minimagen.imagen import Imagen

    device = resolve_device(arguments.DEVICE)
    imagen = Imagen.from_directory(directory, weights=arguments.WEIGHTS)
    return imagen if arguments.OFFLOAD else imagen.to(device)


def sample(
    arguments: argparse.Namespace, directory: "TrainingDirectory", captions: Sequence[Caption]
) -> int:
    """Sample ``captions`` and write each batch as soon as it is done; return the exit code."""
    editing.check_captions(arguments, captions)
    imagen = _load(arguments, directory.path)
    given = read_given(arguments)
    edit = editing.edit_of(arguments, imagen, given)
    from minimagen.cli.asked import Asked
    from minimagen.cli.sampling import requests_of, write_images
    from minimagen.storage.directory import read_parameter_values

    trained_on = read_parameter_values(directory.parameters).get("data", {})
    if arguments.ASPECT_RATIO and not trained_on.get("aspect_buckets"):
        print("trained on images of one shape only (no --ASPECT_BUCKETS): others may look wrong")
    if kind_of(arguments) is not None:
        return _together(arguments, imagen, captions, directory)
    requests, sheet = requests_of(arguments, imagen, captions), None
    if arguments.SWEEP is not None:
        requests, sheet = editing.sheet_of_sweep(arguments, imagen, requests[0])
    asked = Asked.of(arguments, directory, requests, given, edit=edit, sheet=sheet)
    return write_images(arguments, imagen, asked, edit=edit)


def _together(
    arguments: argparse.Namespace,
    imagen: "Imagen",
    captions: Sequence[Caption],
    directory: "TrainingDirectory",
) -> int:
    """Write images that belong together; return the exit code."""
    from minimagen.arguments import seeds_of
    from minimagen.cli.sampling import fitting_in_memory, print_notes
    from minimagen.device import resolve_device
    from minimagen.storage.directory import new_output
    from minimagen.storage.model_hash import model_hash

    if arguments.SEED is None and arguments.SEEDS is None:
        (arguments.SEED,) = seeds_of(None, None, 1)
        print(f"seed: {arguments.SEED}")
    arguments.WEIGHTS = per_stage("`weights`", arguments.WEIGHTS, len(imagen.stages))
    model = model_hash(directory, arguments.WEIGHTS)
    output = new_output(arguments.OUTPUT, "generated_images")
    try:
        with fitting_in_memory(resolve_device(arguments.DEVICE), arguments.BATCH_SIZE):
            code = belong_together(arguments, imagen, captions, output, model)
        print_notes(imagen)
        return code
    finally:
        if output.is_dir() and not any(output.iterdir()):  # stopped before there was a whole
            output.rmdir()


def go_on(arguments: argparse.Namespace) -> int:
    """Sample what a stopped run has left; return the exit code."""
    use_free_cores()  # before torch is imported
    from minimagen.cli.asked import Asked
    from minimagen.cli.sampling import write_images
    from minimagen.storage.directory import TrainingDirectory
    from minimagen.storage.model_hash import model_hash

    output = arguments.CONTINUE
    asked = Asked.saved_in(output)
    directory = TrainingDirectory.open(arguments.TRAINING_DIRECTORY or asked.directory)
    arguments.WEIGHTS = asked.weights
    if model_hash(directory, asked.weights) != asked.model:
        raise UserError(
            f"the weights of {directory} are not those that {output} was begun with; sample anew "
            "without --CONTINUE"
        )
    imagen, edit = _load(arguments, directory.path), asked.edit_in(output)
    return write_images(arguments, imagen, asked, output, edit)


def again(arguments: argparse.Namespace) -> int:
    """Sample the image of ``--FROM_IMAGE`` again, with what else is given; return the exit code."""
    use_free_cores()  # before torch is imported
    from minimagen.cli.asked import Asked
    from minimagen.cli.sampling import requests_again, write_images
    from minimagen.storage.directory import TrainingDirectory
    from minimagen.storage.metadata import read_generation
    from minimagen.storage.model_hash import find_model

    made, given = read_generation(arguments.FROM_IMAGE), read_given(arguments)
    take_up(arguments, made, given)
    captions = whole_again(arguments, made, _typed(arguments))
    if arguments.TRAINING_DIRECTORY is None:
        directory = find_model(made.model, made.weights, Path(), bundled_cascades())
        print(f"training directory: {directory} (it has the weights of the image)")
    else:
        directory = TrainingDirectory.open(arguments.TRAINING_DIRECTORY)
    if arguments.WEIGHTS is None:
        alike = len(set(made.weights)) == 1  # then they fit any number of stages
        arguments.WEIGHTS = made.weights[0] if alike else made.weights
    if captions:
        return sample(arguments, directory, captions)
    imagen = _load(arguments, directory.path)
    requests = requests_again(arguments, imagen, made)
    edit = editing.edit_of(arguments, imagen, given)
    asked = Asked.of(arguments, directory, requests, given, made, edit)
    return write_images(arguments, imagen, asked, edit=edit)


entry = partial(run, main)
