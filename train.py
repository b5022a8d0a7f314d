"""Train a cascade: ``python train.py --help``."""

from minimagen.cli.train import entry

if __name__ == "__main__":
    raise SystemExit(entry())
