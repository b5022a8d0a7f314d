"""``train.py``: flags or a parameters directory -> a training directory."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from minimagen.checked import per_stage
from minimagen.cli.arguments import (
    Flag,
    build_parser,
    integers,
    natural,
    parse,
    positive,
    positive_int,
    run,
    several,
    share,
)
from minimagen.cli.settings import KeyPath, Settings, read_settings
from minimagen.config import Size
from minimagen.config.cascade_sizes import aspect_buckets, with_side
from minimagen.errors import UserError
from minimagen.storage.directory import Parameters
from minimagen.training.settings import chosen_stages

FLAGS = (
    Flag("PARAMETERS", "p", Path, "directory of parameters, ours or MinImagen's [the demo's]"),
    Flag("NUM_WORKERS", "n", natural, "data loader workers [0]"),
    Flag("BATCH_SIZE", "b", positive_int, "images per optimizer step, of all processes together"),
    Flag("MAX_NUM_WORDS", "mw", positive_int, "longest caption in tokens [64]"),
    Flag("IMG_SIDE_LEN", "s", positive_int, "side of the final images in px; stages scale with it"),
    Flag("EPOCHS", "e", positive_int, "passes over the training set, or give STEPS or MINUTES"),
    Flag("T5_NAME", "t5", str, "text encoder: t5_mini, t5_small ..., a hub id, a folder [t5_mini]"),
    Flag("TRAIN_VALID_FRAC", "f", share, "training share where the data has no split [0.9]"),
    Flag("TIMESTEPS", "t", several(positive_int), "default sampling steps, for all stages or each"),
    Flag("OPTIM_LR", "lr", positive, "peak learning rate of every stage"),
    Flag("ACCUM_ITER", "ai", positive_int, "micro-batches per optimizer step [1]"),
    Flag("CHCKPT_NUM", "cn", positive_int, "optimizer steps between checkpoints [500]"),
    Flag("VALID_NUM", "vn", positive_int, "validation images [512]"),
    Flag("RESTART_DIRECTORY", "rd", Path, "training directory to resume from"),
    Flag("DISTILL", "di", Path, "training directory whose stages learn to paint in TIMESTEPS"),
    Flag("TESTING", "test", None, "everything once, in under a minute; tiny cascade by default"),
    Flag("DATASET", "ds", str, "shapes, shapes:scenes, a folder, a file, a hub id: docs/data.md"),
    Flag("STREAMING", "sr", None, "read parquet files and the hub while training, not before"),
    Flag("CAPTION_COLUMN", "cc", str, "of the captions, in data with columns [text]"),
    Flag("CROP", "cr", str, "of pictures with another aspect ratio [centre]", ("centre", "random")),
    Flag("ASPECT_BUCKETS", "ab", None, "keep pictures' aspect ratios: batches of several sizes"),
    Flag("FLIP", "fl", None, "mirror every second picture; captions must not say left or right"),
    Flag("STEPS", "st", positive_int, "optimizer steps of every stage"),
    Flag("MINUTES", "m", positive, "time for all stages; the first steps are timed"),
    Flag(
        "STAGES", "sg", integers, "which to train, such as 0 or 0,1; jobs may share an OUTPUT [all]"
    ),
    Flag("SEED", "sd", natural, "of every random draw [0]"),
    Flag("DEVICE", "dev", str, "auto, cuda, mps or cpu [auto]"),
    Flag("PRECISION", "pr", str, "auto: bf16 where native [auto]", ("auto", "fp32", "bf16")),
    Flag("IN_PLACE", "ip", None, "resume in RESTART_DIRECTORY itself instead of a new one"),
    Flag("OUTPUT", "o", Path, "the training directory [training_<time>]"),
    Flag(
        "FSDP", "fs", None, "share each network out among the processes (FSDP2), which needs adamw"
    ),
    Flag("ACTIVATION_CHECKPOINTING", "ac", None, "less memory, about a third more time"),
    Flag("TRACKER", "tr", str, "where curves go too [none]", ("tensorboard", "wandb", "none")),
    Flag("DRY_RUN", "dr", None, "build on no device, print sizes, memory and FLOPs, and stop"),
    Flag("PRINT_CONFIG", "pc", None, "print every value with its source, and stop"),
)
EXAMPLES = """  python train.py --MINUTES 5
  python train.py --DATASET my_pictures --IMG_SIDE_LEN 128 --MINUTES 60
  python train.py --PARAMETERS ./parameters --BATCH_SIZE 2 --TIMESTEPS 25 --TESTING
  python train.py --RESTART_DIRECTORY training_20261120_220000
  python train.py --DISTILL training_20261120_220000 --TIMESTEPS 4,1 --MINUTES 3
  torchrun --nproc_per_node 4 train.py --DATASET my_pictures --BATCH_SIZE 256 --STEPS 100000"""

TARGETS: dict[str, KeyPath] = {
    "NUM_WORKERS": ("training", "num_workers"),
    "BATCH_SIZE": ("training", "batch_size"),
    "MAX_NUM_WORDS": ("imagen", "max_num_words"),
    "T5_NAME": ("imagen", "text_encoder_name"),
    "TRAIN_VALID_FRAC": ("data", "train_valid_frac"),
    "TIMESTEPS": ("imagen", "stages", "*", "sampling", "timesteps"),
    "OPTIM_LR": ("training", "stages", "*", "optim_lr"),
    "ACCUM_ITER": ("training", "accum_iter"),
    "CHCKPT_NUM": ("training", "chckpt_num"),
    "VALID_NUM": ("data", "valid_num"),
    "DATASET": ("data", "dataset"),
    "CAPTION_COLUMN": ("data", "caption_column"),
    "CROP": ("data", "crop"),
    "ASPECT_BUCKETS": ("data", "aspect_buckets"),
    "FLIP": ("data", "flip"),
    "STREAMING": ("data", "streaming"),
    "SEED": ("training", "seed"),
    "PRECISION": ("training", "precision"),
    "ACTIVATION_CHECKPOINTING": ("training", "activation_checkpointing"),
    "TRACKER": ("training", "tracker"),
}
LENGTHS = ("EPOCHS", "STEPS", "MINUTES")
FEW_STEPS = (4, 1)  # of a distilled first stage, of the others
ITS_OWN = (  # what --DISTILL does not let one change
    "PARAMETERS", "RESTART_DIRECTORY", "T5_NAME", "MAX_NUM_WORDS", "IMG_SIDE_LEN", "TESTING",
)  # fmt: skip
TESTING_CAPTIONS = ["a large red star on a blue background", "a small green heart"]


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the run's values, each with its source."""
    given = [name for name in LENGTHS if getattr(arguments, name) is not None]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} contradict each other; give one of them")
    if arguments.DISTILL is not None:
        settings = _distilling(arguments)
    elif arguments.RESTART_DIRECTORY is not None:
        settings = _restarted(arguments)
    else:
        settings = read_settings(arguments.PARAMETERS, arguments.TESTING)
    if arguments.TESTING:
        _shorten(settings)
    _one_training_entry_per_stage(settings)
    for name, target in TARGETS.items():
        value = getattr(arguments, name)
        if name == "TIMESTEPS" and arguments.DISTILL is not None:
            continue  # they are in the stages that it distils
        if value is not None and value is not False:  # a switch that is not given is False
            settings.set(target, value, f"--{name}")
    if arguments.BATCH_SIZE is not None:
        settings.set(("training", "stages", "*", "batch_size"), None, "--BATCH_SIZE")
    if arguments.SEED is not None:
        settings.set(("data", "seed"), arguments.SEED, "--SEED")
    if given:
        for name in LENGTHS:
            value = getattr(arguments, name)
            settings.set(("training", name.lower()), value, f"--{given[0]}")
    if arguments.IMG_SIDE_LEN is not None:
        sizes = with_side(settings.parameters().imagen, arguments.IMG_SIDE_LEN).image_sizes
        settings.set(("imagen", "image_sizes"), [list(s) for s in sizes], "--IMG_SIDE_LEN")
    return settings


def _shorten(settings: Settings) -> None:
    for path, value in (
        (("training", "steps"), 4),
        (("training", "epochs"), None),
        (("training", "minutes"), None),
        (("training", "chckpt_num"), 2),
        (("training", "sample_num"), 2),
        (("training", "sample_captions"), TESTING_CAPTIONS),
        (("data", "valid_num"), 16),
        (("data", "epoch_size"), 64),
        (("data", "max_samples"), 64),
    ):
        settings.set(path, value, "--TESTING")


def _one_training_entry_per_stage(settings: Settings) -> None:
    """Write out the training settings of every stage, so that flags can change them."""
    parameters = settings.parameters()
    count, entries = len(parameters.imagen.stages), parameters.training.stages
    if len(entries) != count and len(entries) <= 1:
        entry = entries[0].model_dump() if entries else {}
        settings.set(("training", "stages"), [dict(entry) for _ in range(count)], "default")


def _restarted(arguments: argparse.Namespace) -> Settings:
    """Return the values of the directory to resume."""
    from minimagen.storage.directory import TrainingDirectory, read_parameter_values

    for name in ("PARAMETERS", "TESTING", "MINUTES"):
        if getattr(arguments, name) not in (None, False):
            raise UserError(
                f"--RESTART_DIRECTORY has its own parameters; leave out --{name} (--STEPS or "
                "--EPOCHS make the run longer)"
            )
    directory = TrainingDirectory.open(arguments.RESTART_DIRECTORY)
    return Settings(read_parameter_values(directory.parameters), str(directory))


def _distilling(arguments: argparse.Namespace) -> Settings:
    """Return the values of the directory to distil, the chosen stages to paint in few steps."""
    from minimagen.storage.directory import TrainingDirectory, read_parameter_values

    for name in ITS_OWN:
        if getattr(arguments, name) not in (None, False):
            raise UserError(f"--DISTILL takes a cascade as it is; leave out --{name}")
    if all(getattr(arguments, name) is None for name in LENGTHS):
        raise UserError(f"--DISTILL needs a length; give one of --{', --'.join(LENGTHS)}")
    directory = TrainingDirectory.open(arguments.DISTILL)
    settings = Settings(read_parameter_values(directory.parameters), str(directory))
    stages = settings.parameters().imagen.stages
    chosen = chosen_stages(arguments.STAGES, len(stages))
    default = [FEW_STEPS[min(i, 1)] for i in chosen]
    steps = per_stage("--TIMESTEPS", arguments.TIMESTEPS or default, len(chosen))
    for i, n in zip(chosen, steps, strict=True):
        place, before = ("imagen", "stages", i), stages[i].sampling.model_dump(mode="json")
        settings.set((*place, "distilled_steps"), n, "--DISTILL")
        for name, value in stages[i].distilled(n).sampling.model_dump(mode="json").items():
            if value != before[name]:
                settings.set((*place, "sampling", name), value, "--DISTILL")
    return settings


def parse_flags(argv: Sequence[str], program: str = "train.py") -> argparse.Namespace:
    """Return the flags, those that contradict each other refused."""
    parser = build_parser(program, __doc__ or "", EXAMPLES, FLAGS)
    arguments = parse(parser, FLAGS, argv)
    if arguments.IN_PLACE and arguments.RESTART_DIRECTORY is None:
        raise UserError("--IN_PLACE needs --RESTART_DIRECTORY")
    if arguments.IN_PLACE and arguments.OUTPUT is not None:
        raise UserError("--IN_PLACE and --OUTPUT contradict each other; give one of them")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Train; return the exit code."""
    return train_as_asked(parse_flags(argv))[0]


def train_as_asked(arguments: argparse.Namespace) -> tuple[int, Path | None]:
    """Train, or only print what was asked for; return the exit code and the directory, if any."""
    settings = settings_of(arguments)
    parameters = settings.parameters()
    chosen_stages(arguments.STAGES, len(parameters.imagen.stages))
    if arguments.PRINT_CONFIG:
        print(settings.table(parameters))
        return 0, None
    if arguments.DRY_RUN:
        from minimagen.cli.dry_run import report

        print(report(parameters))
        return 0, None
    return _train(arguments, parameters)


def _train(arguments: argparse.Namespace, parameters: Parameters) -> tuple[int, Path | None]:
    from minimagen.text.t5 import T5Encoder

    # The first thing, before torch is imported: a misspelt name answers at once.
    encoder = T5Encoder(parameters.imagen.text_encoder_name, parameters.imagen.max_num_words)
    from minimagen.data.open import load_dataset
    from minimagen.imagen import Imagen
    from minimagen.storage.directory import TrainingDirectory
    from minimagen.training.interruption import Interrupted
    from minimagen.training.processes.launch import launched
    from minimagen.training.run import OutOfMemory, train
    from minimagen.training.trainer import NonFiniteLossError

    device = arguments.DEVICE or "auto"
    processes = launched(device, arguments.FSDP)
    data = parameters.data
    dataset = processes.first_here(
        lambda: load_dataset(
            data.dataset,
            parameters.imagen.image_sizes[-1],
            seed=data.seed,
            epoch_size=data.epoch_size,
            caption_column=data.caption_column,
            crop=data.crop,
            flip=data.flip,
            buckets=_buckets(parameters),
            streaming=data.streaming,
        )
    )
    processes.first_here(lambda: encoder.fingerprint)  # a missing one is told at once
    restart, distil = arguments.RESTART_DIRECTORY, arguments.DISTILL
    try:
        directory = train(
            Imagen(parameters.imagen, encoder, seed=parameters.training.seed),
            dataset,
            parameters.training,
            data=data,
            output=arguments.OUTPUT,
            stages=arguments.STAGES,
            device=device,
            resume=None if restart is None else TrainingDirectory.open(restart),
            in_place=arguments.IN_PLACE,
            fsdp=arguments.FSDP,
            teacher=None if distil is None else TrainingDirectory.open(distil),
        )
    except Interrupted as stop:
        code, path = 128 + stop.signum, None
    except NonFiniteLossError:
        code, path = 1, None
    except OutOfMemory as error:
        print(f"error: {error}", file=sys.stderr)
        return 1, None  # the others wait in the middle of a step: no farewell
    else:
        code, path = 0, directory.path
    processes.end()
    return code, path


def _buckets(parameters: Parameters) -> tuple[Size, ...]:
    """Return the sizes of pictures to train on, none where all have the last stage's."""
    if not parameters.data.aspect_buckets:
        return ()
    sizes = aspect_buckets(parameters.imagen)
    if len(sizes) == 1:
        height, width = sizes[0]
        raise UserError(
            f"--ASPECT_BUCKETS: the networks can paint {height} x {width} only, as their sides are "
            "halved too often for other shapes; leave it out, or give a larger --IMG_SIDE_LEN"
        )
    return sizes


def entry(argv: Sequence[str] | None = None) -> int:
    """Run ``train.py``."""
    return run(main, argv)
