"""The data set of a training: opened once on each machine, with what a user should know of it."""

import argparse
import time
from typing import TYPE_CHECKING

from minimagen.cli.arguments import is_given
from minimagen.cli.recipe import has_recipe, report_opening, suggestion
from minimagen.cli.running import with_flags
from minimagen.config import Size
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.config.data import is_embedded
from minimagen.errors import UserError
from minimagen.storage.directory import Parameters

if TYPE_CHECKING:
    from minimagen.data.dataset import Dataset
    from minimagen.training.processes.alone import Processes

READING = {"seed", "epoch_size", "caption_column", "crop", "flip", "streaming", "where"}


def opened(
    arguments: argparse.Namespace, parameters: Parameters, processes: "Processes"
) -> "Dataset":
    """Return the data set, on each machine indexed once; print what is to be known of it."""
    from minimagen.data.dataset import count_of
    from minimagen.data.open import load_dataset

    data, size = parameters.data, parameters.imagen.data_size
    if is_given(arguments, "FLIP") and is_embedded(data.dataset):
        raise UserError(f"{data.dataset} are drawn, and not mirrored: --FLIP needs your own images")
    reading = data.model_dump(include=READING) | {"buckets": _buckets(parameters)}
    started = time.monotonic()
    dataset = processes.first_on_each_machine(lambda: load_dataset(data.dataset, size, **reading))
    if parameters.training.minutes is not None and not has_recipe(arguments):
        report_opening(started)  # a recipe has opened it before, and said so
    if processes.rank == 0 and (hint := suggestion(arguments, parameters, count_of(dataset))):
        print(with_flags(hint))
    return dataset


def _buckets(parameters: Parameters) -> tuple[Size, ...]:
    """Return the sizes of the images to train on, none where all have the last stage's."""
    if not parameters.data.aspect_buckets:
        return ()
    imagen = parameters.imagen
    if not imagen.stages or imagen.clip is not None or imagen.stages[0].kind == "tokens":
        raise UserError(
            "--ASPECT_BUCKETS needs diffusion stages: a CLIP and a stage of tokens take images of "
            "one shape only; leave it out"
        )
    sizes = aspect_buckets(parameters.imagen)
    if len(sizes) == 1:
        height, width = sizes[0]
        raise UserError(
            f"--ASPECT_BUCKETS: the networks can sample {height} x {width} only, as they halve the "
            "sides too often for other shapes; leave it out, or give a larger --IMG_SIDE_LEN"
        )
    return sizes
