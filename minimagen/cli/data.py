"""``python -m minimagen data export shapes OUT``: the embedded data as an image folder."""

from collections.abc import Sequence
from pathlib import Path

from minimagen.cli.arguments import Flag, build_parser, natural, parse, positive_int

FLAGS = (
    Flag("COUNT", "n", positive_int, "pictures to write [100]"),
    Flag("SIZE", "s", positive_int, "side in px [64]"),
    Flag("SEED", "sd", natural, "of the stream [0]"),
    Flag("SPLIT", "sp", str, "combinations to draw [train]", ("train", "tune", "heldout")),
    Flag("LEVEL", "l", str, "simple: one object; scenes: more [simple]", ("simple", "scenes")),
)
EXAMPLES = "  python -m minimagen data export shapes OUT --count 1000 --size 64 --split train"


def main(argv: Sequence[str]) -> int:
    """Export; return the exit code."""
    parser = build_parser("python -m minimagen data", __doc__ or "", EXAMPLES, FLAGS)
    parser.add_argument("action", choices=("export",))
    parser.add_argument("source", choices=("shapes",))
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    arguments = parse(parser, FLAGS, argv)
    from minimagen.data.export import export_shapes

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
