"""``python -m minimagen data check|download|encode|export``: look at data, and prepare it."""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from minimagen.cli.arguments import Flag, build_parser, natural, parse, positive_int
from minimagen.errors import UserError, did_you_mean

CAPTION_COLUMN = Flag("CAPTION_COLUMN", "cc", str, "of the captions, in data with columns [text]")
STREAMING = Flag("STREAMING", "sr", None, "read parquet files and the hub without storing them")
T5_NAME = Flag("T5_NAME", "t5", str, "t5_mini, t5_small ..., a hub id or a folder [t5_mini]")
MAX_NUM_WORDS = Flag("MAX_NUM_WORDS", "mw", positive_int, "longest caption in tokens [64]")
EXPORT_FLAGS = (
    Flag("COUNT", "n", positive_int, "pictures to write [100]"),
    Flag("SIZE", "s", positive_int, "side in px [64]"),
    Flag("SEED", "sd", natural, "of the stream [0]"),
    Flag("SPLIT", "sp", str, "combinations to draw [train]", ("train", "tune", "heldout")),
    Flag("LEVEL", "l", str, "simple: one object; scenes: more [simple]", ("simple", "scenes")),
)
EXPORT_EXAMPLES = (
    "  python -m minimagen data export shapes OUT --count 1000 --size 64 --split train"
)
CHECK_FLAGS = (
    Flag("IMG_SIDE_LEN", "s", positive_int, "smaller pictures are problems [any size is allowed]"),
    CAPTION_COLUMN,
    STREAMING,
    T5_NAME,
    MAX_NUM_WORDS,
)
CHECK_EXAMPLES = """  python -m minimagen data check my_pictures
  python -m minimagen data check my_pictures --IMG_SIDE_LEN 64 --CAPTION_COLUMN captions"""
DOWNLOAD_FLAGS = (
    Flag("CAPTION_COLUMN", "cc", str, "of the captions [text, caption]"),
    Flag("NUM_WORKERS", "n", positive_int, "pictures fetched at once [32]"),
)
DOWNLOAD_EXAMPLES = "  python -m minimagen data download pictures.csv my_shards"
ENCODE_FLAGS = (
    T5_NAME,
    MAX_NUM_WORDS,
    Flag("DEVICE", "dev", str, "auto, cuda, mps or cpu [auto]"),
    CAPTION_COLUMN,
    STREAMING,
    Flag("SEED", "sd", natural, "of the embedded data [0]"),
    Flag("EPOCH_SIZE", "es", positive_int, "captions of the embedded data [20000]"),
)
ENCODE_EXAMPLES = """  python -m minimagen data encode my_pictures
  python -m minimagen data encode my_pictures --T5_NAME t5_base --DEVICE cuda"""
ACTIONS = {
    "check": "read everything once; counts, sizes, duplicates, captions, what is unreadable",
    "download": "fetch the pictures of a table of addresses into tar shards",
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
    parser = build_parser(
        "python -m minimagen data check", ACTIONS["check"], CHECK_EXAMPLES, CHECK_FLAGS
    )
    parser.add_argument("source", metavar="SOURCE", help="what --DATASET takes: docs/data.md")
    arguments = parse(parser, CHECK_FLAGS, argv)
    from minimagen.data.check import check
    from minimagen.data.open import load_dataset
    from minimagen.text.t5 import T5Encoder

    max_tokens = arguments.MAX_NUM_WORDS or 64
    encoder = T5Encoder(arguments.T5_NAME or "t5_mini", max_tokens)
    dataset = load_dataset(
        arguments.source,
        caption_column=arguments.CAPTION_COLUMN or "text",
        streaming=arguments.STREAMING,
    )
    side = arguments.IMG_SIDE_LEN
    reports = check(dataset, lambda some: [len(ids) for ids in encoder.tokenize(some)], side)
    for report in reports:
        print(report.text(side, max_tokens))
    problems = sum(len(report.problems) for report in reports)
    print(f"{problems} problems" if problems else "no problems")
    return 1 if problems else 0


def _download(argv: Sequence[str]) -> int:
    parser = build_parser(
        "python -m minimagen data download",
        ACTIONS["download"],
        DOWNLOAD_EXAMPLES,
        DOWNLOAD_FLAGS,
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="csv, tsv, jsonl or parquet")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, or one to go on with")
    arguments = parse(parser, DOWNLOAD_FLAGS, argv)
    from minimagen.data.download.download import THREADS, download

    if not arguments.table.is_file():
        raise UserError(f"no table {str(arguments.table)!r}")
    column, threads = arguments.CAPTION_COLUMN or "text", arguments.NUM_WORKERS or THREADS
    result = download(arguments.table, arguments.out, column, threads=threads)
    print(f"{result.good} pictures in {len(result.shards)} shards: {result.folder}")
    for reason, count in result.failed.most_common(10):
        print(f"  {count} failed: {reason}")
    return 0


def _encode(argv: Sequence[str]) -> int:
    parser = build_parser(
        "python -m minimagen data encode", ACTIONS["encode"], ENCODE_EXAMPLES, ENCODE_FLAGS
    )
    parser.add_argument("source", metavar="SOURCE", help="what --DATASET takes: docs/data.md")
    arguments = parse(parser, ENCODE_FLAGS, argv)
    from minimagen.data.encode import encode_captions
    from minimagen.data.open import load_dataset
    from minimagen.device import resolve_device
    from minimagen.text.t5 import T5Encoder

    dataset = load_dataset(
        arguments.source,
        seed=arguments.SEED or 0,
        epoch_size=arguments.EPOCH_SIZE or 20_000,
        caption_column=arguments.CAPTION_COLUMN or "text",
        streaming=arguments.STREAMING,
    )
    device = resolve_device(arguments.DEVICE or "auto")
    name, longest = arguments.T5_NAME or "t5_mini", arguments.MAX_NUM_WORDS or 64
    report = encode_captions(dataset, T5Encoder(name, longest, device))
    print(report.text())
    return 128 + signal.SIGINT if report.interrupted else 0


def _export(argv: Sequence[str]) -> int:
    parser = build_parser(
        "python -m minimagen data export", ACTIONS["export"], EXPORT_EXAMPLES, EXPORT_FLAGS
    )
    parser.add_argument("source", choices=("shapes",))
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    arguments: argparse.Namespace = parse(parser, EXPORT_FLAGS, argv)
    from minimagen.shapes.export import export_shapes

    out = export_shapes(
        arguments.out,
        arguments.COUNT or 100,
        arguments.SIZE or 64,
        arguments.SEED or 0,
        arguments.SPLIT or "train",
        arguments.LEVEL or "simple",
    )
    print(f"{arguments.COUNT or 100} pictures with captions: {out}")
    return 0
