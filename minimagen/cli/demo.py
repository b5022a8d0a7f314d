"""``main.py``: train a preset, the demo cascade by default, then sample with it."""

import os
import time
from collections.abc import Sequence
from functools import partial

from minimagen.cli import clip, inference, reconstruct, train
from minimagen.cli.next_commands import print_next
from minimagen.cli.running import run_of_several
from minimagen.storage.directory import TrainingDirectory, read_imagen_config, stamped


def main(argv: Sequence[str]) -> int:
    """Run ``train.py`` with ``argv``, then ``inference.py``; return the exit code.

    Without a stage that makes images, it measures the CLIP or the autoencoder instead.
    """
    started = time.perf_counter()
    arguments = train.parse_flags(argv, "main.py")
    code, directory = train.train_as_asked(arguments)
    if directory is None:  # stopped, or only asked for --PRINT_CONFIG or --DRY_RUN
        return code
    imagen = read_imagen_config(directory / "parameters")
    if not imagen.stages:
        measure = reconstruct if imagen.clip is None else clip
        return measure.main([str(directory), "--DEVICE", arguments.DEVICE])
    if not TrainingDirectory(directory).samples_images:  # not all of it is trained
        print_next(TrainingDirectory(directory), arguments)
        return 0
    if os.environ.get("RANK", "0") != "0":
        return 0  # rank 0 samples
    output = stamped("generated_images")
    asked = ["-d", str(directory), "--OUTPUT", str(output), "--SEED", "0"]
    for name in ("DEVICE", "PRECISION"):
        if (value := getattr(arguments, name)) is not None:
            asked += [f"--{name}", value]
    if code := inference.main(asked):
        return code
    minutes = (time.perf_counter() - started) / 60
    print(f"training directory: {directory}")
    print(f"generated images:   {output / 'generated_images'}")
    print(f"grid:               {output / 'grid.png'}")
    print(f"from start to images: {minutes:.1f} minutes")
    return 0


entry = partial(run_of_several, main)
