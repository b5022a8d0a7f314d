"""Train the demo cascade and paint with it: ``python main.py``."""

from minimagen.cli.demo import entry

if __name__ == "__main__":
    raise SystemExit(entry())
