"""What ``train.py`` takes beside the configuration, and what ``inference.py`` takes."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from minimagen.checked import PositiveInt
from minimagen.cli import editing, options
from minimagen.cli.arguments import Option
from minimagen.cli.captions import ASPECT_RATIO, IMAGES_PER_CAPTION, NEGATIVE, SEED

TRAIN = (
    Option("PARAMETERS", "p", "Preset, or directory of parameters, ours or MinImagen's", Path,
           shown="the demo's"),
    Option("TESTING", "test", "Everything once, in under a minute; tiny cascade by default", bool),
    Option("RESTART_DIRECTORY", "rd", "Training directory to resume from", Path,
           also=("resume", "resume_from", "resume_from_checkpoint", "checkpoint")),
    Option("IN_PLACE", "ip", "Resume in RESTART_DIRECTORY itself instead of a new one", bool),
    Option("DISTILL", "di", "Training directory whose stages learn to sample in TIMESTEPS", Path,
           also=("teacher",)),
    Option("FROM", "fr", "Training directory, or owner/name@revision of the hub, whose weights and "
           "parameters a new training starts from, on any data", Path, also=("source", "finetune",
           "init_from", "pretrained", "pretrained_model_name_or_path")),
    options.WEIGHTS.but(help=f"For --FROM. {options.WEIGHTS.help}", default=None, shown="final"),
    Option("STAGES", "sg", "Stages to train, such as 0 or 0,1; jobs may share an OUTPUT",
           tuple[Annotated[int, Field(ge=0)], ...], shown="all"),
    Option("LEARNERS", "le", "What to train, by name: clip, unet_0 ...; instead of --STAGES",
           tuple[str, ...], shown="all"),
    Option("OUTPUT", "o", "Training directory to make", Path, shown="training_<time>",
           also=("output_dir", "outdir", "logging_dir")),
    Option("SAMPLE_CAPTIONS", "sc", "Text file, one caption per line, of the sample sheets", Path,
           shown="validation captions", also=("sample_prompts", "validation_prompts",
           "validation_prompt")),
    options.DEVICE,
    Option("FSDP", "fs", "Networks sharded over all ranks (FSDP2), which needs adamw", bool),
    Option("DRY_RUN", "dr", "Print sizes, memory and FLOPs of the cascade, and stop", bool),
    Option("WORLD_SIZE", "ws", "Ranks whose memory --DRY_RUN prints, divided by --FSDP if given",
           PositiveInt, shown="the launcher's, or 1"),
    Option("PRINT_CONFIG", "pc", "Print every value with its source, and stop", bool),
)  # fmt: skip
"""Of a training."""


def seed_list(text: str) -> tuple[int, ...]:
    """Return the seeds of a list with ranges: ``1,5,10-20``."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError("must be seeds and ranges of seeds, such as 1,5,10-20")
        if dash and not 0 <= int(last) - int(first) < 1_000_000:
            raise ValueError("must have ranges from low to high, of less than a million seeds")
        seeds += range(int(first), int(last or first) + 1)
    return tuple(seeds)


INFERENCE = {
    "what to sample": (
        options.TRAINING_DIRECTORY.but(shown="the newest one here, else pretrained/emoji"),
        options.WEIGHTS.but(default=None, shown="final, of --FROM_IMAGE the image's own"),
        Option("CAPTIONS", "c", "Caption, or a .txt file with one per line (a line may end with "
               "options of its own: a red star --seed 7 --guidance 4), or a table (.csv, .tsv, "
               ".jsonl, .parquet)",
               shown="the sample sheet's", also=("prompt", "prompts", "text")),
        NEGATIVE,
        IMAGES_PER_CAPTION,
        SEED,
        Option("SEEDS", "sds", "Seeds of each caption's images, such as 1,5,10-20",
               Annotated[Any, BeforeValidator(seed_list)], shown="none"),
        Option("FROM_IMAGE", "fi", "Image, strip, sheet or animation that this program made: "
               "generate it again; what else is given is changed", Path),
        Option("CONTINUE", "co", "Output directory of a stopped run: sample what is missing", Path),
        Option("BEST_OF", "bo", "Candidates of each image, of which the one nearest to the caption "
               "in a CLIP is kept", PositiveInt, 1),
        Option("CLIP", "cl", "For --BEST_OF: training directory with a CLIP, not the one that "
               "conditions", Path),
        ASPECT_RATIO,
    ),
    "sampling": (
        *options.SAMPLING,
        Option("STOP_STAGE", "ss", "The last stage that samples, from 0: small images, soon",
               Annotated[int, Field(ge=0)], shown="the last one"),
    ),
    "a given image, images that belong together": editing.OPTIONS,
    "run": (
        options.DEVICE,
        options.PRECISION.but(default=None, shown="auto, of --FROM_IMAGE the image's own"),
        Option("BATCH_SIZE", "b", "Images sampled at once", PositiveInt, 64),
        Option("OFFLOAD", "off", "Only one stage at a time on the device", bool),
        Option("OUTPUT", "o", "Directory to write", Path, shown="generated_images_<time>"),
        Option("NO_METADATA", "nm", "Do not write into the files how they were made", bool),
    ),
}  # fmt: skip
"""By the heading that the help shows them under."""
