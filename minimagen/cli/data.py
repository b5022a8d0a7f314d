"""``python -m minimagen data check|download|encode|export``: look at data, and prepare it."""

import signal
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minimagen.checked import PositiveInt
from minimagen.cli.arguments import Option, Parser
from minimagen.cli.options import CONFIGURED, DEVICE, IMG_SIDE_LEN
from minimagen.cli.running import with_flags
from minimagen.config.data import EPOCH_SIZE, ShapesSplit, is_embedded
from minimagen.config.recipes import TEXT_ENCODER
from minimagen.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from minimagen.text.encoding import TextEncoder


class Action(NamedTuple):
    """One of the commands: what it does, what it takes."""

    does: str
    act: Callable[[Namespace], int]
    positional: dict[str, str]
    options: tuple[Option, ...]
    examples: str


def main(argv: Sequence[str]) -> int:
    """Run the action named first; return the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m minimagen data ACTION ... (ACTION --help for its flags)\n")
        print("\n".join(f"  {name:<10} {action.does}" for name, action in ACTIONS.items()))
        return 0
    if argv[0] not in ACTIONS:
        hint = did_you_mean(argv[0], ACTIONS)
        raise UserError(f"data: unknown action {argv[0]!r}{hint} (valid: {', '.join(ACTIONS)})")
    does, act, positional, options, examples = ACTIONS[argv[0]]
    program = f"python -m minimagen data {argv[0]}"
    return act(Parser(program, does, examples, {"flags": options}, **positional).parse(argv[1:]))


def _check(arguments: Namespace) -> int:
    from minimagen.data.check import check
    from minimagen.data.open import load_dataset
    from minimagen.data.sheet import write_sheet

    encoder = _encoder(arguments)
    dataset = load_dataset(
        arguments.source,
        caption_column=arguments.CAPTION_COLUMN,
        streaming=arguments.STREAMING,
        where=arguments.WHERE,
        crop=arguments.CROP,
        size=arguments.IMG_SIDE_LEN or SHEET_SIDE,
    )
    reports = check(dataset, encoder, arguments.IMG_SIDE_LEN)
    for report in reports:
        print(with_flags(report.text(arguments.IMG_SIDE_LEN, arguments.MAX_NUM_WORDS)))
    if arguments.SHEET is not None:
        print(f"{write_sheet(dataset, arguments.SHEET)} images are on {arguments.SHEET}")
    problems = sum(len(report.problems) for report in reports)
    print(f"{problems} problems" if problems else "no problems")
    return 1 if problems else 0


def _download(arguments: Namespace) -> int:
    from minimagen.data.download.download import download

    table, out = Path(arguments.table), Path(arguments.out)
    if not table.is_file():
        raise UserError(f"no table {str(table)!r}")
    result = download(table, out, arguments.CAPTION_COLUMN, threads=arguments.NUM_WORKERS)
    print(f"{result.good} images in {len(result.shards)} shards: {result.folder}")
    for reason, count in result.failed.most_common(10):
        print(f"  {count} failed: {reason}")
    return 0


def _encode(arguments: Namespace) -> int:
    from minimagen.data.encode import encode_captions
    from minimagen.data.open import load_dataset
    from minimagen.device import resolve_device

    dataset = load_dataset(
        arguments.source,
        seed=arguments.SEED,
        epoch_size=arguments.EPOCH_SIZE,
        caption_column=arguments.CAPTION_COLUMN,
        streaming=arguments.STREAMING,
        where=arguments.WHERE,
    )
    encoder = _encoder(arguments)
    report = encode_captions(dataset, encoder.to(resolve_device(arguments.DEVICE)))
    print(report.text())
    return 128 + signal.SIGINT if report.interrupted else 0


def _encoder(arguments: Namespace) -> "TextEncoder":
    """Return the text encoder that is named, otherwise the one that `train.py` takes."""
    from minimagen.text.build import build

    own = CONFIGURED["T5_NAME"].default if is_embedded(arguments.source) else TEXT_ENCODER
    return build(arguments.T5_NAME or own, arguments.MAX_NUM_WORDS)


def _export(arguments: Namespace) -> int:
    from minimagen.shapes.dataset import NAMES, embedded
    from minimagen.shapes.export import export_drawn

    source = arguments.source
    if not is_embedded(source):
        raise UserError(f"cannot export {source!r}; only {', '.join(NAMES)}, the embedded data")
    dataset = embedded(
        source,
        split=arguments.SPLIT,
        size=arguments.SIZE,
        seed=arguments.SEED,
        epoch_size=arguments.COUNT,
    )
    out = export_drawn(arguments.out, dataset)
    print(f"{arguments.COUNT} images with captions: {out}")
    return 0


SOURCE = {"SOURCE": "what --DATASET takes: docs/data.md"}
CAPTION_COLUMN = CONFIGURED["CAPTION_COLUMN"]
WHERE = CONFIGURED["WHERE"]
STREAMING = CONFIGURED["STREAMING"].but(help="Parquet files and the hub are read, not stored")
T5_NAME = CONFIGURED["T5_NAME"].but(default=None, shown="that of train.py")
ENCODER = (T5_NAME, CONFIGURED["MAX_NUM_WORDS"])
SHEET_SIDE = 64  # px
SHEET = Option(
    "SHEET", "sh", "Write a sheet of images as a network will see them, with captions", Path,
    shown="no sheet; sheet.png without FILE", alone=Path("sheet.png"),
)  # fmt: skip
SEED = CONFIGURED["SEED"].but(help="Seed of the embedded data")
SMALLEST = IMG_SIDE_LEN.but(help="Side in px; smaller images are problems", shown="any size")
ACTIONS = {
    "check": Action(
        "read everything once; counts, sizes, duplicates, captions, what is unreadable",
        _check,
        SOURCE,
        (SMALLEST, SHEET, CAPTION_COLUMN, CONFIGURED["CROP"], STREAMING, WHERE, *ENCODER),
        """  python -m minimagen data check my_images
  python -m minimagen data check my_images --IMG_SIDE_LEN 64 --CAPTION_COLUMN captions
  python -m minimagen data check my_images --IMG_SIDE_LEN 64 --SHEET""",
    ),
    "download": Action(
        "fetch the images of a URL table into tar shards",
        _download,
        {"TABLE": "csv, tsv, jsonl or parquet file", "OUT": "new folder, or one to go on with"},
        (CAPTION_COLUMN, Option("NUM_WORKERS", "n", "Images fetched at once", PositiveInt, 32)),
        "  python -m minimagen data download images.csv my_shards",
    ),
    "encode": Action(
        "encode every caption once and keep that on disk: training then starts at once",
        _encode,
        SOURCE,
        (
            *ENCODER,
            DEVICE,
            CAPTION_COLUMN,
            STREAMING,
            WHERE,
            SEED,
            Option("EPOCH_SIZE", "es", "Captions of the embedded data", PositiveInt, EPOCH_SIZE),
        ),
        """  python -m minimagen data encode my_images
  python -m minimagen data encode my_images --T5_NAME t5_base --DEVICE cuda""",
    ),
    "export": Action(
        "write the embedded data as an image folder",
        _export,
        {"SOURCE": "shapes, shapes:scenes or digits", "OUT": "new or empty folder"},
        (
            Option("COUNT", "n", "Images to write", PositiveInt, 100),
            Option("SIZE", "s", "Side in px", PositiveInt, 64),
            SEED,
            Option("SPLIT", "sp", "Combinations to draw", ShapesSplit, "train"),
        ),
        """  python -m minimagen data export shapes OUT --count 1000 --size 64 --split train
  python -m minimagen data export digits:mnist=mnist/train.parquet OUT""",
    ),
}
