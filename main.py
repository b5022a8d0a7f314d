"""Train the demo cascade and generate images with it: ``python main.py``."""

from minimagen.cli.demo import entry

if __name__ == "__main__":
    raise SystemExit(entry())
