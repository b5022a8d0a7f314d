"""Write ``benchmarks/RESULTS.md`` and the figure of quality against time from the rows.

python -m benchmarks.report
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.measuring import RESULTS, ROOT, Row, growth_exponent, mean_sd, read_rows
from benchmarks.peer_recipes import AS_SHIPPED, TRIALS
from benchmarks.tables import Table

LEVELS = (0.5, 0.8, 0.9, 0.95)
FIGURE = "quality_against_time.png"
HEAD = """# Results

Written by `python -m benchmarks.report` from the rows in `benchmarks/results/`: do not edit.
Each table names its machine, versions and dates; `README.md` here says what is measured and how.
"""


def newest(rows: Iterable[Row]) -> list[Row]:
    """Return the newest row of every case and machine, in the order of first appearance."""
    found: dict[str, Row] = {}
    for row in rows:
        found[f"{row['case']} {row['machine']['name']}"] = row
    return list(found.values())


def current(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of each side's newest settings: older presets and networks are history."""
    settings = {_lineage(row): _settings(row) for row in rows}
    return [row for row in rows if _settings(row) == settings[_lineage(row)]]


def _lineage(row: Row) -> tuple[Any, ...]:
    case, tried = row["case"], row["case"].get("purpose", "confirm") != "confirm"
    names = ("side", "stages", "split", "purpose", "what")
    return *(case.get(name) for name in names), case["recipe"] if tried else None


def _settings(row: Row) -> tuple[Any, ...]:
    return row["case"].get("settings"), row["case"].get("directory")


def times_to(rows: Iterable[Row], level: float) -> dict[int, float | None]:
    """Return per seed the smallest time whose run reached ``level``, None where none did.

    A run that overran its budget counts with the seconds that it took.
    """
    times: dict[int, float | None] = {}
    for row in rows:
        seed, seconds = row["case"]["seed"], max(row["case"]["budget"], row["seconds"])
        best = times.setdefault(seed, None)
        if row["all_right"] >= level and (best is None or seconds < best):
            times[seed] = seconds
    return times


def startup(rows: list[Row]) -> list[str]:
    """Return the table of the start-up benchmark."""
    table: Table = [("command", "median, s", "quartiles, s", "runs", "torch loaded", "< 1 s")]
    for row in rows:
        s = row["seconds"]
        low, high = s["quartiles"]
        loads = "yes" if row["loads_torch"] else "no"
        kept = "yes" if s["median"] < row["limit"] else "NO"
        quartiles = f"{low:.2f}-{high:.2f}"
        command = f"`{row['case']['command']}`"
        table.append((command, f"{s['median']:.2f}", quartiles, s["n"], loads, kept))
    return markdown(table)


def step(rows: list[Row]) -> list[str]:
    """Return the tables of the training step: speed and memory, then v-loss."""
    speed: Table = [
        ("stage", "side", "precision", "mode", "parameters, M", "images/s", "step, s (quartiles)",
         "memory, GB (before)", "GFLOP/s", "of matmul peak", "first step, s", "ours / diffusers")
    ]  # fmt: skip
    learnt: Table = [("stage", "side", "parameters, M", "images", "v-loss")]
    for row in rows:
        case = row["case"]
        if case["what"] == "v_loss":
            facts = (f"{row['parameters'] / 1e6:.2f}", row["images"], f"{row['v_loss']:.4f}")
            learnt.append((case["stage"], case["side"], *facts))
            continue
        setting = (case["stage"], case["side"], case["precision"], case["mode"])
        if "skipped" in row:
            speed.append((*setting, "", row["skipped"], *[""] * 6))
        else:
            speed.append((*setting, *_speed_cells(row), _against_peer(row, rows)))
    return [*markdown(speed), "", *markdown(learnt)]


def _speed_cells(row: Row) -> list[str]:
    low, high = row["step_seconds"]["quartiles"]
    return [
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['images_per_second']:.2f}",
        f"{row['step_seconds']['median']:.3f} ({low:.3f}-{high:.3f})",
        f"{row['peak_bytes'] / 1e9:.2f} ({row['bytes_before'] / 1e9:.2f})",
        f"{row['achieved_flops'] / 1e9:.1f}",
        f"{row['share_of_peak']:.0%}",
        f"{row['first_step_seconds']:.1f}",
    ]


def _against_peer(row: Row, rows: list[Row]) -> str:
    """Return our speed and memory relative to the peer's same case, in our rows."""
    if row["case"]["side"] != "ours":
        return ""
    wanted = row["case"] | {"side": "diffusers"}
    peers = [r for r in rows if r["case"] == wanted and r["machine"] == row["machine"]]
    if not peers or "skipped" in peers[-1]:
        return ""
    speed = row["images_per_second"] / peers[-1]["images_per_second"]
    return f"{speed:.2f} x speed, {row['peak_bytes'] / peers[-1]['peak_bytes']:.2f} x memory"


def sample(rows: list[Row]) -> list[str]:
    """Return the table of the sampling benchmark; differences are paired by caption."""
    table: Table = [
        ("stage", "sampler", "steps", "guidance", "calls / picture", "s / picture", "memory, GB",
         "all right", "against the reference, points (95 %)", "KID x 1000")
    ]  # fmt: skip
    for row in rows:
        case, sampling = row["case"], row["case"]["sampling"]
        reference = next((r for r in rows if _is_reference_of(r, row)), None)
        table.append((
            case["stage"], sampling["sampler"], sampling["timesteps"], sampling["guidance_scale"],
            f"{row['calls_per_picture']:.0f}", f"{row['seconds_per_picture']:.3f}",
            f"{row['peak_bytes'] / 1e9:.2f}", f"{row['all_right']:.1%}",
            "reference" if case["reference"] else difference(row, reference),
            f"{1000 * row['kid']:.2f} +- {1000 * row['kid_standard_error']:.2f}",
        ))  # fmt: skip
    return markdown(table)


def _is_reference_of(other: Row, row: Row) -> bool:
    keys = ("directory", "weights", "stage", "split", "n")
    same = all(other["case"][key] == row["case"][key] for key in keys)
    return same and other["case"]["reference"]


def difference(row: Row, reference: Row | None) -> str:
    """Return the mean paired difference in percentage points and its 95 % interval."""
    if reference is None:
        return ""
    pairs = zip(row["right"], reference["right"], strict=True)
    mean, sd = mean_sd([100.0 * (int(a) - int(b)) for a, b in pairs])
    half = 1.96 * sd / len(row["right"]) ** 0.5
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def time_to_quality(rows: list[Row]) -> list[str]:
    """Return the tables of time to quality: times, every run, the peer's trials."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["case"]["purpose"] != "trial":
            groups[_group(row)].append(row)
    times: Table = [("stages", "split", "side", *(f"{x:.0%}, s" for x in LEVELS), "seeds")]
    runs: Table = [
        ("stages", "split", "side", "budget, s", "seconds", "images", "all right, mean +- sd",
         "memory, GB", "runs")
    ]  # fmt: skip
    for group, members in groups.items():
        seeds = {row["case"]["seed"] for row in members}
        times.append((*group, *(_time(members, level) for level in LEVELS), len(seeds)))
        for budget in sorted({row["case"]["budget"] for row in members}):
            same = [row for row in members if row["case"]["budget"] == budget]
            runs.append((*group, f"{budget:.0f}", *_run_cells(same), len(same)))
    trials: Table = [("trial of diffusers", "stages", "budget, s", "all right", "images")]
    for row in (r for r in rows if r["case"]["purpose"] == "trial"):
        case, right = row["case"], f"{row['all_right']:.1%}"
        trials.append((case["recipe"], case["stages"], case["budget"], right, row["images"]))
    said = f"The peer's tuning has {len(TRIALS)} trials, {len(trials) - 1} of them run."
    return [*markdown(times), "", *markdown(runs), "", said, "", *markdown(trials)]


def _group(row: Row) -> tuple[Any, ...]:
    case = row["case"]
    shipped = case.get("recipe") == AS_SHIPPED.name
    return case["stages"], case["split"], f"{case['side']}{', as shipped' if shipped else ''}"


def _time(rows: list[Row], level: float) -> str:
    times = times_to(rows, level)
    reached = [t for t in times.values() if t is not None]
    if len(reached) < len(times):
        longest = max(max(r["case"]["budget"], r["seconds"]) for r in rows)
        return f"> {longest:.0f} ({len(reached)} of {len(times)} seeds)"
    mean, sd = mean_sd(reached)
    return f"{mean:.0f} +- {sd:.0f}" if len(reached) > 1 else f"{mean:.0f}"


def _run_cells(rows: list[Row]) -> list[str]:
    mean, sd = mean_sd([row["all_right"] for row in rows])
    right = f"{mean:.1%} +- {100 * sd:.1f}" if len(rows) > 1 else f"{mean:.1%}"
    seconds = f"{mean_sd([row['seconds'] for row in rows])[0]:.0f}"
    images = [round(sum(n) / len(rows)) for n in zip(*(r["images"] for r in rows), strict=True)]
    memory = f"{max(row['peak_bytes'] for row in rows) / 1e9:.2f}"
    return [seconds, " + ".join(map(str, images)), right, memory]


def growth(rows: list[Row]) -> list[str]:
    """Return the table of growth: the points and the fitted exponents."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["case"]["against"], str(row["case"]["settings"])].append(row)
    table: Table = [
        ("against", "sizes", "step, s", "memory used, GB", "exponent of time", "of memory")
    ]
    for (against, _), members in groups.items():
        x = [row["x"] for row in members]
        scale = [row["pixels_per_stage"] if against == "stages" else 1.0 for row in members]
        seconds = [row["step_seconds"] / s for row, s in zip(members, scale, strict=True)]
        used = [row["used_bytes"] / s for row, s in zip(members, scale, strict=True)]
        table.append((
            against,
            " ".join(f"{value:.4g}" for value in x),
            " ".join(f"{row['step_seconds']:.3f}" for row in members),
            " ".join(f"{row['used_bytes'] / 1e9:.2f}" for row in members),
            _exponent(x, seconds),
            _exponent(x, used),
        ))  # fmt: skip
    return markdown(table)


def _exponent(x: Sequence[float], y: Sequence[float]) -> str:
    if len(set(x)) < 2 or min(y) <= 0:
        return ""
    return f"{growth_exponent(x, y):.2f}"


TABLES: dict[str, tuple[str, Callable[[list[Row]], list[str]]]] = {
    "time_to_quality": ("Time to quality", time_to_quality),
    "step": ("Training step", step),
    "sample": ("Sampling", sample),
    "growth": ("Growth", growth),
    "data": ("Data", lambda rows: several(rows, tables.speed, tables.waiting, tables.memory)),
    "faults": ("Faults", lambda rows: markdown(tables.faults(rows))),
    "foreign": ("Foreign files", lambda rows: markdown(tables.foreign(rows))),
    "startup": ("Start-up", startup),
}


def several(rows: list[Row], *parts: Callable[[list[Row]], Table]) -> list[str]:
    """Return several tables of the same rows, those without rows left out."""
    filled = [table for part in parts if len(table := part(rows)) > 1]
    return [line for table in filled for line in [*markdown(table), ""]]


def markdown(table: Table) -> list[str]:
    """Return a table in Markdown; its first row is the head."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]


def write(folder: Path, page: Path) -> None:
    """Write the page and, where matplotlib is installed, the figure beside the rows."""
    lines = [HEAD]
    for name, (title, written) in TABLES.items():
        lines.append(f"## {title}\n")
        by_machine: dict[str, list[Row]] = defaultdict(list)
        for row in newest(read_rows(name, folder)):
            by_machine[row["machine"]["name"]].append(row)
        by_machine = {machine: current(rows) for machine, rows in by_machine.items()}
        if not by_machine:
            lines.append(f"Not run yet: `python -m benchmarks.{name}`.\n")
        for machine, rows in by_machine.items():
            lines += [_provenance(machine, rows), "", *written(rows), ""]
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
    told = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{machine}; {told}; {when}; commits {commits}."


def draw(by_machine: dict[str, list[Row]], path: Path) -> bool:
    """Draw the share of captions all right against seconds; False without matplotlib."""
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
                groups[_group(row)].append(row)
        for (stages, split, side), members in groups.items():
            budgets = sorted({row["case"]["budget"] for row in members})
            stats = [
                mean_sd([r["all_right"] for r in members if r["case"]["budget"] == b])
                for b in budgets
            ]
            mean, sd = [100 * m for m, _ in stats], [100 * s if s == s else 0 for _, s in stats]
            label = f"{side}, {stages} stage{'s' if stages > 1 else ''}, {split}"
            label += f" ({machine})" if len(by_machine) > 1 else ""
            axes.errorbar(budgets, mean, sd, marker="o", capsize=3, label=label)
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
