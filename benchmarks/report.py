"""Write ``benchmarks/RESULTS.md`` and the figure of quality against time from the rows.

python -m benchmarks.report
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import PRESET, RESULTS, ROOT, Row, mean_sd, read_rows
from benchmarks.tables import TABLES, group_of

FIGURE = "quality_against_time.png"
STATES = (PRESET, "weights", "sheets")  # keys of a case that say of what state it is, and where
HEADER = """# Results

Written by `python -m benchmarks.report` from the rows in `benchmarks/results/`: do not edit.
Each table names its machine, versions and dates; `README.md` here describes the measurements.
"""


def newest(rows: Iterable[Row]) -> list[Row]:
    """Return the newest row of every case and machine, in the order of first appearance.

    A case of another state of a preset, or of other weights, is the same case: the row of those of
    today is newer. So is one of 5.0 minutes instead of 5.
    """
    found: dict[str, Row] = {}
    for row in rows:
        case = {key: value for key, value in row["case"].items() if key not in STATES}
        if "minutes" in case:
            case["minutes"] = float(case["minutes"])
        found[f"{case} {row['machine']['name']}"] = row
    return list(found.values())


def current(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of each side's newest settings: older presets and networks are history."""
    settings = {_lineage(row): _settings(row) for row in rows}
    return [row for row in rows if _settings(row) == settings[_lineage(row)]]


def _lineage(row: Row) -> tuple[Any, ...]:
    case, tried = row["case"], row["case"].get("purpose", "confirm") != "confirm"
    names = ("side", "stage", "stages", "split", "purpose", "what")
    return *(case.get(name) for name in names), case["recipe"] if tried else None


def _settings(row: Row) -> tuple[Any, ...]:
    return tuple(row["case"].get(name) for name in ("settings", "directory", "n"))


def write(folder: Path, page: Path) -> None:
    """Write the page and, where matplotlib is installed, the figure beside the rows."""
    lines = [HEADER]
    for name, (title, tables) in TABLES.items():
        lines.append(f"## {title}\n")
        by_machine: dict[str, list[Row]] = defaultdict(list)
        for row in newest(read_rows(name, folder)):
            by_machine[row["machine"]["name"]].append(row)
        by_machine = {machine: current(rows) for machine, rows in by_machine.items()}
        if not by_machine:
            lines.append(f"Not run yet: `python -m benchmarks.{name}`.\n")
        for machine, rows in by_machine.items():
            lines += [_provenance(machine, rows), "", *tables(rows), ""]
        if name == "time_to_quality" and by_machine and draw(by_machine, folder / FIGURE):
            lines.append(f"![Quality against time]({_relative(folder / FIGURE, page.parent)})\n")
    page.write_text("\n".join(lines), "utf-8")


def _relative(path: Path, start: Path) -> str:
    path, start = path.resolve(), start.resolve()
    return path.relative_to(start).as_posix() if path.is_relative_to(start) else path.as_posix()


def _provenance(machine: str, rows: list[Row]) -> str:
    versions = rows[-1]["machine"]["versions"]
    dates = sorted(row["date"][:10] for row in rows)
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows if row.get("commit")))
    versions_text = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{machine}; {versions_text}; {when}; commits {commits}."


def draw(by_machine: dict[str, list[Row]], path: Path) -> bool:
    """Draw the share of fully correct captions against seconds.

    Returns:
        False without matplotlib, or if there are only trials of the peer.
    """
    if all(row["case"]["purpose"] == "trial" for rows in by_machine.values() for row in rows):
        return False
    try:
        import matplotlib
    except ImportError:
        print("the figure needs matplotlib: pip install matplotlib")
        return False
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for machine, rows in by_machine.items():
        groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for row in rows:
            if row["case"]["purpose"] != "trial":
                groups[group_of(row)].append(row)
        for (stages, split, side), members in groups.items():
            budgets = sorted({row["case"]["budget"] for row in members})
            runs = [[row for row in members if row["case"]["budget"] == b] for b in budgets]
            taken = [mean_sd([row["seconds"] for row in same])[0] for same in runs]
            stats = [mean_sd([row["fully_correct"] for row in same]) for same in runs]
            mean, sd = [100 * m for m, _ in stats], [100 * s if s == s else 0 for _, s in stats]
            label = f"{side}, {stages} stage{'s' if stages > 1 else ''}, {split}"
            label += f" ({machine})" if len(by_machine) > 1 else ""
            axes.errorbar(taken, mean, sd, marker="o", capsize=3, label=label)
    axes.set(xlabel="seconds from the start of the process", ylim=(0, 101))
    axes.set_ylabel("captions with every attribute right, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="[benchmarks/results]")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    arguments = parser.parse_args(argv)
    write(arguments.results, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
