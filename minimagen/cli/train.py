"""``train.py``: flags or a parameters directory -> a training directory."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from minimagen.checked import per_stage
from minimagen.cli.arguments import KeyPath, Option, Parser, is_given, shown
from minimagen.cli.flags import TRAIN
from minimagen.cli.next_commands import continuing, print_next
from minimagen.cli.opening import opened
from minimagen.cli.options import CONFIGURED, IMG_SIDE_LEN
from minimagen.cli.recipe import follow_recipe, has_recipe, suit_device
from minimagen.cli.running import run_of_several, with_flags
from minimagen.cli.settings import (
    LENGTHS,
    Settings,
    add_minutes,
    check_length,
    fill_in,
    forget_data,
    name_encoder_of_clip,
    read_settings,
    saved_settings,
    values_at,
    with_whole_paths,
)
from minimagen.cli.threads import report_busy_cores
from minimagen.config import ImagenConfig
from minimagen.config.cascade_sizes import with_side
from minimagen.errors import UserError
from minimagen.storage.directory import Parameters, TrainingDirectory
from minimagen.storage.files import read_lines
from minimagen.text.names import LABELS, TRAINED_HERE

EXAMPLES = """  python train.py --MINUTES 5
  python train.py --DATASET my_images --IMG_SIDE_LEN 128 --MINUTES 60
  python train.py --PARAMETERS ./parameters --BATCH_SIZE 2 --TIMESTEPS 25 --TESTING
  python train.py --RESTART_DIRECTORY training_20261120_220000
  python train.py --FROM training_20261120_220000 --DATASET my_images --MINUTES 20
  python train.py --DISTILL training_20261120_220000 --TIMESTEPS 4,1 --MINUTES 3
  torchrun --nproc_per_node 4 train.py --DATASET my_images --BATCH_SIZE 256 --STEPS 100000"""

FEW_STEPS = (4, 1)  # of a distilled first stage, of the others
CASCADE = [o.name for o in CONFIGURED.values() if o.path[0] == "imagen" and o.name != "TIMESTEPS"]
CONTRADICTIONS = {
    "RESTART_DIRECTORY": ("PARAMETERS", "DISTILL", "FROM", "TESTING"),
    "DISTILL": ("PARAMETERS", "FROM", "TESTING", "IMG_SIDE_LEN", *CASCADE),
    "IN_PLACE": ("OUTPUT",),
    "STAGES": ("LEARNERS",),
}
SHORT: dict[KeyPath, Any] = {  # what --TESTING sets
    ("training", "steps"): 4,
    ("training", "epochs"): None,
    ("training", "minutes"): None,
    ("training", "revisions"): (),
    ("training", "chckpt_num"): 2,
    ("training", "sample_num"): 2,
    ("training", "sample_captions"): [],  # the data's own
    ("data", "valid_num"): 16,
    ("data", "epoch_size"): 64,
    ("data", "max_samples"): 64,
}


def options() -> dict[str, list[Option]]:
    """Return the options by heading; the demo preset's values are the defaults that help shows."""
    demo = read_settings(None, testing=False).parameters()
    side = IMG_SIDE_LEN.but(shown=shown(max(demo.imagen.image_sizes[-1])))
    groups = {"run": [*TRAIN], "cascade": [side], "training": [], "data": []}
    for option in CONFIGURED.values():
        heading = "cascade" if option.path[0] == "imagen" else str(option.path[0])
        value = values_at(demo, option.path)
        default = shown(option.default if value is None else value)
        groups[heading].append(option.but(default=None, shown=default))
    return groups


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the run's values, each with its source."""
    if arguments.DISTILL is not None:
        settings = _distilling(arguments)
    elif arguments.RESTART_DIRECTORY is not None:
        settings = saved_settings(arguments.RESTART_DIRECTORY)
        if not settings.has("training"):
            raise UserError(
                f"--RESTART_DIRECTORY {arguments.RESTART_DIRECTORY} was shared without its "
                f"training; go on from its weights with --FROM {arguments.RESTART_DIRECTORY}"
            )
    elif arguments.FROM is not None:
        if arguments.PARAMETERS is None and not arguments.TESTING:
            check_length("FROM", arguments)
        settings = read_settings(arguments.PARAMETERS, arguments.TESTING, arguments.FROM)
        fill_in(settings, arguments, "FROM")
        if arguments.PARAMETERS is None:
            suit_device(settings, arguments)
        forget_data(settings, arguments, trained=True)
    else:
        settings = read_settings(arguments.PARAMETERS, arguments.TESTING)
        if has_recipe(arguments):
            follow_recipe(settings, arguments)
        forget_data(settings, arguments)
    for path, value in SHORT.items() if arguments.TESTING else ():
        settings.set(path, value, "--TESTING")
    settings.write_out_stages()
    given = {name: o.path for name, o in CONFIGURED.items() if is_given(arguments, name)}
    if arguments.DISTILL is not None:
        given.pop("TIMESTEPS", None)  # they are in the stages that it distils
    if arguments.RESTART_DIRECTORY is not None and "MINUTES" in given:
        add_minutes(settings, arguments)
        del given["MINUTES"]
    for name in given.keys() & LENGTHS:
        for each in LENGTHS:
            settings.set(CONFIGURED[each].path, None, f"--{name}")
        settings.set(("training", "revisions"), (), f"--{name}")
    if arguments.SAMPLE_CAPTIONS is not None:
        captions = _sheet_captions(arguments.SAMPLE_CAPTIONS)
        settings.set(("training", "sample_captions"), captions, "--SAMPLE_CAPTIONS")
    for name, path in given.items():
        settings.set(path, getattr(arguments, name), f"--{name}")
    if "T5_NAME" in given:
        name_encoder_of_clip(settings, arguments.T5_NAME)
    if "BATCH_SIZE" in given:
        settings.set(("training", "learners", "*", "batch_size"), None, "--BATCH_SIZE")
    if "SEED" in given:
        settings.set(("data", "seed"), arguments.SEED, "--SEED")
    if arguments.IMG_SIDE_LEN is not None:
        _set_side(settings, arguments.IMG_SIDE_LEN)
    return settings


def _set_side(settings: Settings, side: int) -> None:
    """Scale the images of all parts, so that those of the last stage have this side."""
    imagen = with_side(settings.parameters().imagen, side)
    sizes = [list(size) for size in imagen.image_sizes]
    settings.set(("imagen", "image_sizes"), sizes, "--IMG_SIDE_LEN")
    if imagen.clip is not None:
        size = list(imagen.clip.image_size)
        settings.set(("imagen", "clip", "image_size"), size, "--IMG_SIDE_LEN")
    for i, autoencoder in enumerate(imagen.autoencoders):
        place = ("imagen", "autoencoders", i, "image_size")
        settings.set(place, list(autoencoder.image_size), "--IMG_SIDE_LEN")


def _sheet_captions(path: Path) -> list[str]:
    """Return the lines of a file; a UserError unless it has some."""
    captions = [" ".join(line.split()) for line in read_lines(path) if line.strip()]
    if not captions:
        raise UserError(f"--SAMPLE_CAPTIONS {path} has no captions; write one per line")
    return captions


def _distilling(arguments: argparse.Namespace) -> Settings:
    """Return the values of the directory to distill, the chosen stages to sample in few steps."""
    check_length("DISTILL", arguments)
    settings = saved_settings(arguments.DISTILL)
    fill_in(settings, arguments, "DISTILL")
    suit_device(settings, arguments)
    forget_data(settings, arguments, trained=True)
    imagen = settings.parameters().imagen
    places = imagen.chosen_learners(arguments.STAGES, arguments.LEARNERS)
    stages, first = imagen.stages, imagen.first_stage
    chosen = [place - first for place in places if place >= first]
    default = [FEW_STEPS[min(i, 1)] for i in chosen]
    steps = per_stage("--TIMESTEPS", arguments.TIMESTEPS or default, len(chosen))
    for i, n in zip(chosen, steps, strict=True):
        place, before = ("imagen", "stages", i), stages[i].sampling.model_dump(mode="json")
        settings.set((*place, "kind"), "distilled", "--DISTILL")
        settings.set((*place, "steps"), n, "--DISTILL")
        for name, value in stages[i].distilled(n).sampling.model_dump(mode="json").items():
            if value != before[name]:
                settings.set((*place, "sampling", name), value, "--DISTILL")
    return settings


def parse_flags(argv: Sequence[str], program: str = "train.py") -> argparse.Namespace:
    """Return the flags, those that contradict each other refused."""
    arguments = Parser(program, __doc__ or "", EXAMPLES, options()).parse(argv)
    for name, others in CONTRADICTIONS.items():
        for other in others if is_given(arguments, name) else ():
            if is_given(arguments, other):
                raise UserError(f"--{name} contradicts --{other}; leave out --{other}")
    lengths = [name for name in LENGTHS if is_given(arguments, name)]
    if len(lengths) > 1 and arguments.RESTART_DIRECTORY is not None:  # else the training refuses it
        raise UserError(f"--{lengths[0]} contradicts --{lengths[1]}; leave out --{lengths[1]}")
    if arguments.IN_PLACE and arguments.RESTART_DIRECTORY is None:
        raise UserError("--IN_PLACE needs --RESTART_DIRECTORY")
    if arguments.WEIGHTS is not None and arguments.FROM is None:
        raise UserError("--WEIGHTS needs --FROM, the training directory whose weights they are")
    if arguments.WORLD_SIZE is not None and not arguments.DRY_RUN:
        raise UserError("--WORLD_SIZE needs --DRY_RUN; a launcher (torchrun) starts the ranks")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Train; return the exit code."""
    arguments = parse_flags(argv)
    code, directory = train_as_asked(arguments)
    if directory is not None:
        print_next(TrainingDirectory(directory), arguments)
    return code


def train_as_asked(arguments: argparse.Namespace) -> tuple[int, Path | None]:
    """Train, or only print what was asked for; return the exit code and the directory, if any."""
    settings = settings_of(arguments)
    parameters = settings.parameters()
    chosen = parameters.imagen.chosen_learners(arguments.STAGES, arguments.LEARNERS)
    if arguments.PRINT_CONFIG:
        print(settings.table(parameters))
        return 0, None
    if arguments.DRY_RUN:
        from minimagen.cli.dry_run import Ranks, report

        world = arguments.WORLD_SIZE or int(os.environ.get("WORLD_SIZE", "1"))
        print(report(parameters, Ranks(world, arguments.FSDP)))
        return 0, None
    if os.environ.get("RANK", "0") == "0" and (note := _unread_clip(parameters.imagen, chosen)):
        print(note)
    return _train(arguments, parameters)


def _unread_clip(imagen: ImagenConfig, chosen: Sequence[int]) -> str | None:
    """Return a note where a CLIP is trained beside stages, and none of them reads with it."""
    names = [imagen.learner_names[i] for i in chosen]
    others = [name for name in names if name != "clip"]
    if "clip" not in names or not others or imagen.stages_with("clip"):
        return None
    return (
        f"the stages read captions with {imagen.text_encoder_name}, and the CLIP is trained for "
        f"itself; --LEARNERS {','.join(others)} leaves it out"
    )


def _train(arguments: argparse.Namespace, parameters: Parameters) -> tuple[int, Path | None]:
    adapts = parameters.training.minutes is not None  # chooses its threads itself
    if arguments.DEVICE in ("auto", "cpu") and "WORLD_SIZE" not in os.environ and not adapts:
        report_busy_cores()
    from minimagen.text.build import build

    if arguments.RESTART_DIRECTORY is None and arguments.DISTILL is None:
        parameters = with_whole_paths(parameters)
    # The first thing, before torch is imported: a misspelt name answers at once.
    name, encoder = parameters.imagen.text_encoder_name, None
    if name not in TRAINED_HERE:
        encoder = build(name, parameters.imagen.max_num_words)
    from minimagen.data.labels import labels_of
    from minimagen.imagen import Imagen
    from minimagen.training.finetuning import Source
    from minimagen.training.interruption import Interrupted
    from minimagen.training.learner_run import OutOfMemory
    from minimagen.training.processes.launch import launched
    from minimagen.training.run import train
    from minimagen.training.trainer import NonFiniteLossError

    processes = launched(arguments.DEVICE, arguments.FSDP)
    dataset = opened(arguments, parameters, processes)
    if encoder is not None:  # a missing one is an error now
        processes.first_on_each_machine(lambda: encoder.fingerprint)
    elif name == LABELS and not parameters.imagen.labels:
        labels = labels_of(dataset)
        parameters = parameters._replace(imagen=parameters.imagen.replace(labels=labels))
    restart, teacher, source = arguments.RESTART_DIRECTORY, arguments.DISTILL, arguments.FROM
    weights = "final" if arguments.WEIGHTS is None else arguments.WEIGHTS
    try:
        directory = train(
            Imagen(parameters.imagen, encoder, seed=parameters.training.seed),
            dataset,
            parameters.training,
            data=parameters.data,
            output=restart if arguments.IN_PLACE else arguments.OUTPUT,
            stages=arguments.STAGES,
            learners=arguments.LEARNERS,
            resume=None if restart is None else TrainingDirectory.open(restart),
            teacher=None if teacher is None else TrainingDirectory.open(teacher),
            source=None if source is None else Source(TrainingDirectory.open(source), weights),
            processes=processes,
            wording=with_flags,
        )
    except Interrupted as stop:
        if processes.rank == 0 and stop.directory is not None:
            print(f"continue: {continuing(stop.directory, arguments)}")
        return 128 + stop.signum, None
    except NonFiniteLossError:
        return 1, None
    except OutOfMemory as error:
        print(f"error: {with_flags(str(error))}", file=sys.stderr)
        return 1, None
    return 0, directory.path


entry = partial(run_of_several, main)
