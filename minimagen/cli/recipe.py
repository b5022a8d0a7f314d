"""The recipe of a run on the user's own data: chosen by their number, the side and the minutes."""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from minimagen.advice import few_images
from minimagen.cli.arguments import KeyPath, is_given
from minimagen.cli.running import with_flags
from minimagen.cli.settings import Settings, bundled_cascades
from minimagen.config.data import is_embedded
from minimagen.config.recipes import GPU_BATCH_LARGE, Recipe, recipe_for
from minimagen.config.training import TrainingConfig
from minimagen.storage.directory import Parameters, read_imagen_config

MINUTES = 20.0  # where the length is given as steps or epochs, or not at all
OVERRULED = {
    "text_encoder": ("T5_NAME",),
    "thresholding": ("THRESHOLDING",),
    "sampler": ("SAMPLER", "TIMESTEPS"),
    "batch_size": ("BATCH_SIZE",),
}
"""Of the recipe's reasons those that a flag makes void: they are not printed then."""
READING = {"CAPTION_COLUMN": "caption_column", "STREAMING": "streaming", "WHERE": "where"}


def has_recipe(arguments: argparse.Namespace) -> bool:
    """Return whether a recipe acts: on the user's own data, where nothing else sets the cascade."""
    other = ("PARAMETERS", "TESTING", "FROM", "DISTILL", "RESTART_DIRECTORY")
    own = arguments.DATASET is not None and not is_embedded(arguments.DATASET)
    return own and not any(is_given(arguments, name) for name in other)


def follow_recipe(settings: Settings, arguments: argparse.Namespace) -> None:
    """Set what the recipe for the run's data, side and minutes says, and print its reasons."""
    recipe = _recipe(arguments, max(settings.parameters().imagen.image_sizes[-1]))
    for path, value in recipe.values():
        settings.set(path, value, "recipe")
    if not any(is_given(arguments, name) for name in ("MINUTES", "STEPS", "EPOCHS")):
        settings.set(("training", "steps"), None, "recipe")
        settings.set(("training", "minutes"), MINUTES, "recipe")
    if os.environ.get("RANK", "0") == "0":
        for name, reason in recipe.reasons:
            if not any(is_given(arguments, flag) for flag in OVERRULED.get(name, ())):
                print(f"recipe: {with_flags(reason)}")


def _recipe(arguments: argparse.Namespace, side: int) -> Recipe:
    from minimagen.data.dataset import count_of
    from minimagen.data.open import load_dataset
    from minimagen.device import resolve_device

    given: dict[str, Any] = {
        name: getattr(arguments, flag)
        for flag, name in READING.items()
        if is_given(arguments, flag)
    }
    side = arguments.IMG_SIDE_LEN or side
    started = time.monotonic()
    images = count_of(load_dataset(arguments.DATASET, side, **given))
    if not any(is_given(arguments, name) for name in ("STEPS", "EPOCHS")):
        report_opening(started)
    minutes = arguments.MINUTES or MINUTES
    gpu = resolve_device(arguments.DEVICE).type == "cuda"
    return recipe_for(side, images, sum(minutes) if isinstance(minutes, tuple) else minutes, gpu)


def suit_device(settings: Settings, arguments: argparse.Namespace) -> None:
    """Give a run from the weights of another one batches that suit a CPU, if it has only that.

    A recipe's for a GPU are so large that some minutes would be a few steps. A CLIP keeps its own:
    its loss depends on them. ``--BATCH_SIZE`` is for others.
    """
    from minimagen.device import resolve_device

    imagen, training, _ = settings.parameters()
    rows = arguments.ACCUM_ITER or training.accum_iter
    most = max(rows, TrainingConfig.model_fields["batch_size"].default // rows * rows)
    sizes: dict[KeyPath, int | None] = {("batch_size",): training.batch_size}
    sizes |= {("learners", i, "batch_size"): e.batch_size for i, e in enumerate(training.learners)}
    large = {path: size for path, size in sizes.items() if size and size >= GPU_BATCH_LARGE}
    if not large or imagen.clip is not None or is_given(arguments, "BATCH_SIZE"):
        return
    if resolve_device(arguments.DEVICE).type != "cpu":
        return
    for path in large:
        settings.set(("training", *path), most, "the default, on a CPU")
    if os.environ.get("RANK", "0") == "0":
        shown = max(filter(None, large.values()))
        print(f"batches of {most}: on a CPU, the {shown} of the source take long (--BATCH_SIZE)")


def report_opening(started: float) -> None:
    """Say how long the data set took to open, which is not part of a run by minutes."""
    seconds = time.monotonic() - started
    if seconds > 1.0 and os.environ.get("RANK", "0") == "0":
        print(f"data set opened in {seconds:.0f} s, which do not count for --MINUTES")


def suggestion(
    arguments: argparse.Namespace, parameters: Parameters, images: int | None
) -> str | None:
    """Return from which bundled cascade of the same size few images had better start, if any."""
    drawn = is_embedded(parameters.data.dataset)
    if drawn or any(is_given(arguments, name) for name in ("FROM", "DISTILL", "RESTART_DIRECTORY")):
        return None
    imagen = parameters.imagen
    fitting = [
        folder
        for folder in bundled_cascades()
        if read_imagen_config(folder / "parameters").image_sizes[-1:] == imagen.image_sizes[-1:]
    ]
    if not fitting:
        return None
    here = fitting[0].is_relative_to(Path.cwd())
    return few_images(images, str(fitting[0].relative_to(Path.cwd()) if here else fitting[0]))
