"""Generate images for captions: ``python inference.py --help``."""

from minimagen.cli.inference import entry

if __name__ == "__main__":
    raise SystemExit(entry())
