"""Count the lines of the package: by part, of the method, of the data layer.

    python tools/measure_package.py
    python tools/measure_package.py --root ../other

A line is a line of a ``.py`` file under ``minimagen/``, blank lines and comments included. The
method is what the project is for; everything else is plumbing.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

METHOD = ("diffusion", "networks", "stages", "autoencoders", "imagen.py", "editing.py")


def lines(root: Path) -> dict[str, int]:
    """Return the number of lines of every file, by its path inside the package at ``root``."""
    package = root / "minimagen"
    files = sorted(package.rglob("*.py"))
    return {p.relative_to(package).as_posix(): len(p.read_bytes().splitlines()) for p in files}


def report(files: dict[str, int]) -> str:
    """Return the table of the parts, largest first, and what CONTRIBUTING bounds."""
    total = sum(files.values())
    parts: Counter[str] = Counter()
    for name, count in files.items():
        parts[name.split("/")[0]] += count
    method = sum(parts[name] for name in METHOD)
    data = parts["data"] - sum(n for name, n in files.items() if name.startswith("data/download/"))
    measured = [
        *parts.most_common(),
        ("total", total),
        ("method: " + ", ".join(name for name in METHOD if parts[name]), method),
        ("data without data/download", data),
        ("longest file: " + max(files, key=files.__getitem__), max(files.values())),
    ]
    return "\n".join(f"{n:>6}  {n / total:>6.1%}  {name}" for name, n in measured)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    print(report(lines(parser.parse_args(argv).root)))


if __name__ == "__main__":
    main()
