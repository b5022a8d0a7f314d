"""The tables of ``RESULTS.md``, one function for each benchmark's rows."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.data_tables import (
    Table,
    beside,
    faults,
    flatness,
    foreign,
    memory,
    speed,
    waiting,
)
from benchmarks.image_tables import (
    EDITING,
    attributes,
    autoencoders,
    bundled,
    classes,
    conditions,
    fewer_steps,
    page,
    pretrained,
    real,
    ways,
)
from benchmarks.measuring import Row, growth_exponent, mean_sd
from benchmarks.peer_recipes import TRIALS

LEVELS = (0.5, 0.8, 0.9, 0.95)


def times_to(rows: Iterable[Row], level: float) -> dict[int, float | None]:
    """Return per seed the smallest time whose run reached ``level``, None where none did.

    A run that overran its budget counts with the seconds that it took.
    """
    times: dict[int, float | None] = {}
    for row in rows:
        seed, seconds = row["case"]["seed"], max(row["case"]["budget"], row["seconds"])
        best = times.setdefault(seed, None)
        if row["fully_correct"] >= level and (best is None or seconds < best):
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
        ("stage", "side", "precision", "mode", "runs", "parameters, M", "images/s",
         "memory, GB (before)", "GFLOP/s", "of matmul peak", "first step, s",
         "speed, ours / diffusers", "memory, ours / diffusers")
    ]  # fmt: skip
    learning: Table = [("stage", "side", "parameters, M", "images", "v-loss")]
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        case = row["case"]
        if case["what"] == "v_loss":
            facts = (f"{row['parameters'] / 1e6:.2f}", row["images"], f"{row['v_loss']:.4f}")
            learning.append((case["stage"], case["side"], *facts))
        else:
            groups[case["stage"], case["side"], case["precision"], case["mode"]].append(row)
    for group, members in groups.items():
        runs = [row for row in members if "skipped" not in row]
        if runs:
            speed.append((*group, len(runs), *_speed_cells(runs), *_against_peer(runs, rows)))
        else:
            speed.append((*group, 0, "", members[-1]["skipped"], *[""] * 6))
    return [*markdown(speed), "", *markdown(learning)]


def _speed_cells(runs: list[Row]) -> list[str]:
    """Return medians over the runs, each its own process."""
    median = {key: statistics.median(row[key] for row in runs) for key in _MEDIANS}
    return [
        f"{median['parameters'] / 1e6:.2f}",
        _median_and_range([row["images_per_second"] for row in runs]),
        f"{median['peak_bytes'] / 1e9:.2f} ({median['bytes_before'] / 1e9:.2f})",
        f"{median['achieved_flops'] / 1e9:.1f}",
        f"{median['share_of_peak']:.0%}",
        f"{median['first_step_seconds']:.1f}",
    ]


_MEDIANS = (
    "parameters", "peak_bytes", "bytes_before", "achieved_flops", "share_of_peak",
    "first_step_seconds",
)  # fmt: skip


def _against_peer(runs: list[Row], rows: list[Row]) -> list[str]:
    """Return our speed and memory divided by those of the peer's run beside: medians of pairs."""
    measured = [row for row in rows if "skipped" not in row]
    ours = [row for row in runs if row["case"]["side"] == "ours"]
    pairs = [
        (mine, theirs)
        for mine in ours
        for theirs in measured
        if theirs["case"] == mine["case"] | {"side": "diffusers"}
    ]
    if not pairs:
        return ["", ""]
    keys = ("images_per_second", "peak_bytes")
    return [_median_and_range([a[key] / b[key] for a, b in pairs]) + " x" for key in keys]


def _median_and_range(values: list[float]) -> str:
    middle = f"{statistics.median(values):.2f}"
    return f"{middle} ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else middle


def sample(rows: list[Row]) -> list[str]:
    """Return the table of the sampling benchmark; differences are paired by caption."""
    table: Table = [
        ("", "stage", "sampler", "steps", "guidance", "calls / image", "s / image",
         "memory, GB", "images", "fully correct", "against the reference, points (95 %)",
         "KID x 1000")
    ]  # fmt: skip
    for row in sorted(rows, key=lambda row: (row["case"]["stage"], row["case"]["what"])):
        case, sampling = row["case"], row["case"]["sampling"]
        reference = next((r for r in rows if _is_reference_of(r, row)), None)
        table.append((
            case["what"], case["stage"], sampling["sampler"], sampling["timesteps"],
            sampling["guidance_scale"],
            f"{row['calls_per_image']:.0f}", f"{row['seconds_per_image']:.3f}",
            f"{row['peak_bytes'] / 1e9:.2f}", case["n"], f"{row['fully_correct']:.1%}",
            "reference" if case["reference"] else difference(row, reference),
            f"{1000 * row['kid']:.1f} +- {1000 * row['kid_standard_error']:.1f}",
        ))  # fmt: skip
    return markdown(table)


def _is_reference_of(other: Row, row: Row) -> bool:
    same = all(other["case"][key] == row["case"][key] for key in ("stage", "split", "n"))
    of_it = other["case"]["weights"] == row["case"]["compared_with"]
    return bool(same and of_it and other["case"]["reference"])


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
            groups[group_of(row)].append(row)
    times: Table = [("stages", "split", "side", *(f"{x:.0%}, s" for x in LEVELS), "seeds")]
    runs: Table = [
        ("stages", "split", "side", "budget, s", "seconds", "images", "fully correct, mean +- sd",
         "memory, GB", "runs")
    ]  # fmt: skip
    for group, members in groups.items():
        seeds = {row["case"]["seed"] for row in members}
        times.append((*group, *(_time(members, level) for level in LEVELS), len(seeds)))
        for budget in sorted({row["case"]["budget"] for row in members}):
            same = [row for row in members if row["case"]["budget"] == budget]
            runs.append((*group, f"{budget:.0f}", *_run_cells(same), len(same)))
    trials: Table = [("trial of diffusers", "stages", "budget, s", "fully correct", "images")]
    for row in (r for r in rows if r["case"]["purpose"] == "trial"):
        case, right = row["case"], f"{row['fully_correct']:.1%}"
        trials.append((case["recipe"], case["stages"], case["budget"], right, row["images"]))
    tuning = f"The peer's tuning has {len(TRIALS)} trials, {len(trials) - 1} of them run."
    return [*markdown(times), "", *markdown(runs), "", tuning, "", *markdown(trials)]


def group_of(row: Row) -> tuple[Any, ...]:
    """Return what makes runs comparable: stages, split and side."""
    case = row["case"]
    named = f", {case['recipe']}" if "recipe" in case else ""
    return case["stages"], case["split"], f"{case['side']}{named}"


def _time(rows: list[Row], level: float) -> str:
    times = times_to(rows, level)
    reached = [t for t in times.values() if t is not None]
    if len(reached) < len(times):
        longest = max(max(r["case"]["budget"], r["seconds"]) for r in rows)
        return f"> {longest:.0f} ({len(reached)} of {len(times)} seeds)"
    mean, sd = mean_sd(reached)
    return f"{mean:.0f} +- {sd:.0f}" if len(reached) > 1 else f"{mean:.0f}"


def _run_cells(rows: list[Row]) -> list[str]:
    mean, sd = mean_sd([row["fully_correct"] for row in rows])
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


def text(rows: list[Row]) -> list[str]:
    """Return the table of what text costs."""
    table: Table = [("what", "case", "measured")]
    for case, row in ((row["case"], row) for row in rows):
        if case["what"] == "encode":
            rates = f"{row['captions_per_second']:.0f}/s encoded, {row['found_per_second']:.0f}/s"
            measured = (
                case["encoder"],
                f"{rates} found, {row['bytes_per_caption']:.0f} bytes each",
            )
        elif case["what"] == "step":
            times = f"{1e3 * row['text_seconds']:.2f} of {1e3 * row['step_seconds']:.0f} ms"
            measured = (case["mode"], f"{times} are text: {row['share']:.1%}")
        elif case["what"] == "start":
            first, again = row["first_seconds"], row["again_seconds"]
            seconds = f"{first:.1f} s to the first step, {again:.1f} s the second time"
            measured = (f"{case['images']} images", seconds)
        elif case["what"] == "retrieval":
            words = f"{row['words']:.0%} of the words and {row['occurrences']:.0%} of all known"
            measured = (f"{case['data']}, {case['encoder']}", f"{row['found']:.1%} found; {words}")
        else:
            peak, before = row["private_bytes_peak"] / 1e6, row["private_bytes_before"] / 1e6
            memory = f"private memory {before:.0f}, then {peak:.0f} MB at most"
            measured = (f"{case['captions']} captions", memory)
        table.append((case["what"], *measured))
    return markdown(table)


def attention(rows: list[Row]) -> Table:
    """Return the table of the times of attention."""
    sides = list(rows[0]["milliseconds"])
    table: Table = [("shape", *(f"{side}, ms" for side in sides))]
    for row in rows:
        table.append((row["case"]["what"], *(f"{row['milliseconds'][s]:.1f}" for s in sides)))
    return table


def processes(rows: list[Row]) -> list[str]:
    """Return the table of throughput against the number of processes."""
    groups: dict[tuple[int, int, str, int], list[float]] = defaultdict(list)
    for row in rows:
        case = row["case"]
        key = case["stage"], case["batch"], case["device"], case["processes"]
        groups[key].append(row["images_per_second"])
    table: Table = [
        ("stage", "batch", "device", "processes", "images/s (min-max)", "runs", "of one process")
    ]
    for (stage, batch, device, count), rates in groups.items():
        one, rate = groups.get((stage, batch, device, 1)), statistics.median(rates)
        cells = f"{rate:.1f} ({min(rates):.1f}-{max(rates):.1f})", len(rates)
        times = f"{rate / statistics.median(one):.2f} x" if one else ""
        table.append((stage, batch, device, count, *cells, times))
    return markdown(table)


MADE_BY = "Rows of a benchmark that is now `python -m pytest tests/robustness/test_{}.py`."


TABLES: dict[str, tuple[str, Callable[[list[Row]], list[str]]]] = {
    "real": ("Real data", lambda rows: markdown(real(rows))),
    "conditions": ("Words, labels, CLIP vectors", lambda rows: markdown(conditions(rows))),
    "bundled": ("Bundled cascades", lambda rows: markdown(bundled(rows))),
    "ways": ("Ways to generate", lambda rows: markdown(ways(rows))),
    "clip": ("CLIP", lambda rows: several(rows, classes, attributes)),
    "autoencoders": ("Autoencoders", lambda rows: markdown(autoencoders(rows))),
    "editing": ("Editing", lambda rows: several(rows, *EDITING)),
    "page": ("The page", lambda rows: markdown(page(rows))),
    "pretrained": ("Pretrained models", lambda rows: markdown(pretrained(rows))),
    "pretrained_steps": ("Fewer steps", lambda rows: markdown(fewer_steps(rows))),
    "time_to_quality": ("Time to quality", time_to_quality),
    "step": ("Training step", step),
    "attention": ("Attention in training", lambda rows: markdown(attention(rows))),
    "sample": ("Sampling", sample),
    "growth": ("Growth", growth),
    "data": ("Data", lambda rows: several(rows, speed, waiting, memory)),
    "memory": ("Memory of a training", lambda rows: markdown(flatness(rows))),
    "beside": ("Sampling beside a training", lambda rows: markdown(beside(rows))),
    "text": ("Text", text),
    "processes": ("Processes", processes),
    "faults": ("Faults", lambda rows: [MADE_BY.format("broken_runs"), "", *markdown(faults(rows))]),
    "foreign": (
        "Foreign files",
        lambda rows: [MADE_BY.format("foreign_files"), "", *markdown(foreign(rows))],
    ),
    "startup": ("Start-up", startup),
}


def several(rows: list[Row], *parts: Callable[[list[Row]], Table]) -> list[str]:
    """Return several tables of the same rows, leaving out empty ones."""
    filled = [table for part in parts if len(table := part(rows)) > 1]
    return [line for table in filled for line in [*markdown(table), ""]]


def markdown(table: Table) -> list[str]:
    """Return a table in Markdown; its first row is the header."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]
