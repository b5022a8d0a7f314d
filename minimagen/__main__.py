"""``python -m minimagen COMMAND ...``; ``COMMANDS`` lists them."""

import sys
from collections.abc import Sequence
from importlib import import_module

from minimagen.cli.running import run_of_several
from minimagen.errors import UserError, did_you_mean

COMMANDS = {
    "train": "train a cascade (train.py)",
    "inference": "sample images of captions (inference.py)",
    "demo": "train the demo cascade and sample with it (main.py)",
    "export": "write weights, configuration and a card: a folder to publish",
    "evaluate": "measure how good a cascade is, beside real images",
    "report": "write one HTML page about a run, also while it is going on",
    "compare": "show several runs side by side: what differs, curves, sheets, figures",
    "plot": "draw the curves of a run as a PNG",
    "clip": "measure what a trained CLIP knows of images it has not seen",
    "reconstruct": "measure what a trained autoencoder leaves of images",
    "ui": "a page in the browser: generate, edit, look at runs",
    "data": "check, fetch or encode your own data, or write the embedded one",
}


def dispatch(argv: Sequence[str]) -> int:
    """Run the command named first."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m minimagen COMMAND ... (COMMAND --help for its flags)\n")
        print("\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items()))
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(
            f"unknown command {argv[0]!r}{did_you_mean(argv[0], COMMANDS)} "
            f"(valid: {', '.join(COMMANDS)})"
        )
    return import_module(f"minimagen.cli.{argv[0]}").main(list(argv[1:]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m minimagen``."""
    return run_of_several(dispatch, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    raise SystemExit(main())
