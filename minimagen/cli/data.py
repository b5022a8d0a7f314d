"""``python -m minimagen data check|download|encode|export``: look at data, and prepare it."""

import signal
from collections.abc import Sequence
from pathlib import Path

from minimagen.checked import PositiveInt
from minimagen.cli.arguments import Parser
from minimagen.cli.options import CONFIGURED, DEVICE, IMG_SIDE_LEN, Option
from minimagen.config.data import ShapesLevel, ShapesSplit
from minimagen.errors import UserError, did_you_mean

CAPTION_COLUMN = CONFIGURED["CAPTION_COLUMN"]
STREAMING = CONFIGURED["STREAMING"].but(help="Parquet files and the hub are read, not stored")
ENCODER = (CONFIGURED["T5_NAME"], CONFIGURED["MAX_NUM_WORDS"])
SEED = CONFIGURED["SEED"].but(help="Seed of the embedded data")
SOURCE = {"SOURCE": "what --DATASET takes: docs/data.md"}

CHECK = {
    "options": (
        IMG_SIDE_LEN.but(help="Side in px; smaller images are problems", shown="any size"),
        CAPTION_COLUMN,
        STREAMING,
        *ENCODER,
    )
}
CHECK_EXAMPLES = """  python -m minimagen data check my_images
  python -m minimagen data check my_images --IMG_SIDE_LEN 64 --CAPTION_COLUMN captions"""
DOWNLOAD = {
    "options": (
        CAPTION_COLUMN,
        Option("NUM_WORKERS", "n", "Images fetched at once", PositiveInt, 32),
    )
}
DOWNLOAD_EXAMPLES = "  python -m minimagen data download images.csv my_shards"
ENCODE = {
    "options": (
        *ENCODER,
        DEVICE,
        CAPTION_COLUMN,
        STREAMING,
        SEED,
        Option("EPOCH_SIZE", "es", "Captions of the embedded data", PositiveInt, 20_000),
    )
}
ENCODE_EXAMPLES = """  python -m minimagen data encode my_images
  python -m minimagen data encode my_images --T5_NAME t5_base --DEVICE cuda"""
EXPORT = {
    "options": (
        Option("COUNT", "n", "Images to write", PositiveInt, 100),
        Option("SIZE", "s", "Side in px", PositiveInt, 64),
        SEED,
        Option("SPLIT", "sp", "Combinations to draw", ShapesSplit, "train"),
        Option("LEVEL", "l", "One object (simple), or more (scenes)", ShapesLevel, "simple"),
    )
}
EXPORT_EXAMPLES = (
    "  python -m minimagen data export shapes OUT --count 1000 --size 64 --split train"
)
ACTIONS = {
    "check": "read everything once; counts, sizes, duplicates, captions, what is unreadable",
    "download": "fetch the images of a URL table into tar shards",
    "encode": "encode every caption once and keep that on disk: training then starts at once",
    "export": "write the embedded data as an image folder",
}


def main(argv: Sequence[str]) -> int:
    """Run the action named first; return the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m minimagen data ACTION ... (ACTION --help for its flags)\n")
        print("\n".join(f"  {name:<10} {what}" for name, what in ACTIONS.items()))
        return 0
    if argv[0] not in ACTIONS:
        hint = did_you_mean(argv[0], ACTIONS)
        raise UserError(f"data: unknown action {argv[0]!r}{hint} (valid: {', '.join(ACTIONS)})")
    actions = {"check": _check, "download": _download, "encode": _encode, "export": _export}
    return actions[argv[0]](argv[1:])


def _check(argv: Sequence[str]) -> int:
    program, examples = "python -m minimagen data check", CHECK_EXAMPLES
    arguments = Parser(program, ACTIONS["check"], examples, CHECK, SOURCE).parse(argv)
    from minimagen.data.check import check
    from minimagen.data.open import load_dataset
    from minimagen.text.build import build

    encoder = build(arguments.T5_NAME, arguments.MAX_NUM_WORDS)
    dataset = load_dataset(
        arguments.source, caption_column=arguments.CAPTION_COLUMN, streaming=arguments.STREAMING
    )
    side = arguments.IMG_SIDE_LEN
    reports = check(dataset, encoder, side)
    for report in reports:
        print(report.text(side, arguments.MAX_NUM_WORDS))
    problems = sum(len(report.problems) for report in reports)
    print(f"{problems} problems" if problems else "no problems")
    return 1 if problems else 0


def _download(argv: Sequence[str]) -> int:
    program, examples = "python -m minimagen data download", DOWNLOAD_EXAMPLES
    places = {
        "TABLE": "csv, tsv, jsonl or parquet file",
        "OUT": "new folder, or one to go on with",
    }
    arguments = Parser(program, ACTIONS["download"], examples, DOWNLOAD, places).parse(argv)
    from minimagen.data.download.download import download

    table, out = Path(arguments.table), Path(arguments.out)
    if not table.is_file():
        raise UserError(f"no table {str(table)!r}")
    result = download(table, out, arguments.CAPTION_COLUMN, threads=arguments.NUM_WORKERS)
    print(f"{result.good} images in {len(result.shards)} shards: {result.folder}")
    for reason, count in result.failed.most_common(10):
        print(f"  {count} failed: {reason}")
    return 0


def _encode(argv: Sequence[str]) -> int:
    program, examples = "python -m minimagen data encode", ENCODE_EXAMPLES
    arguments = Parser(program, ACTIONS["encode"], examples, ENCODE, SOURCE).parse(argv)
    from minimagen.data.encode import encode_captions
    from minimagen.data.open import load_dataset
    from minimagen.device import resolve_device
    from minimagen.text.t5 import T5Encoder

    dataset = load_dataset(
        arguments.source,
        seed=arguments.SEED,
        epoch_size=arguments.EPOCH_SIZE,
        caption_column=arguments.CAPTION_COLUMN,
        streaming=arguments.STREAMING,
    )
    device = resolve_device(arguments.DEVICE)
    encoder = T5Encoder(arguments.T5_NAME, arguments.MAX_NUM_WORDS, device)
    report = encode_captions(dataset, encoder)
    print(report.text())
    return 128 + signal.SIGINT if report.interrupted else 0


def _export(argv: Sequence[str]) -> int:
    program, examples = "python -m minimagen data export", EXPORT_EXAMPLES
    places = {"SOURCE": "shapes, the embedded data", "OUT": "new or empty folder"}
    arguments = Parser(program, ACTIONS["export"], examples, EXPORT, places).parse(argv)
    from minimagen.shapes.export import export_shapes

    if arguments.source != "shapes":
        raise UserError(f"cannot export {arguments.source!r}; only shapes, the embedded data")
    out = export_shapes(
        arguments.out,
        arguments.COUNT,
        arguments.SIZE,
        arguments.SEED,
        arguments.SPLIT,
        arguments.LEVEL,
    )
    print(f"{arguments.COUNT} images with captions: {out}")
    return 0
