"""The report's tables of images: how good, how alike; the first row of each is its header."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.data_tables import Table
from benchmarks.measuring import Case, Row


def real(rows: list[Row]) -> Table:
    """Return the table of real data: our side and diffusers at equal minutes."""
    table: Table = [
        ("set", "minutes", "side", "seed", "images seen", "recognized, % (real)",
         "held-out combinations, %", "Frechet (floor)", "kernel x 1000 (floor)",
         "noise where flat, /255", "level there (real)", "diversity",
         "copies, % (held-out)", "training, GB")
    ]  # fmt: skip
    for row in sorted(rows, key=lambda row: (row["case"]["set"], row["case"]["minutes"])):
        case = row["case"]
        flat = "flat_std" in row
        table.append(
            (
                _of_split(case),
                f"{case['minutes']:g}",
                " ".join((case["side"], *case["flags"])),
                case["seed"],
                " + ".join(map(str, row["images"])),
                f"{100 * row['recognized']:.1f} ({100 * row['real_recognized']:.1f})",
                f"{100 * row['held_out_recognized']:.1f}" if "held_out_recognized" in row else "",
                f"{row['frechet']:.1f} ({row['frechet_floor']:.1f})",
                f"{row['kernel']:.0f} ({row['kernel_floor']:.0f})",
                f"{row['flat_std']:.2f}" if flat else "",
                f"{row['flat_level']:.0f} ({row['flat_level_real']:.0f})" if flat else "",
                f"{row['diversity']:.2f}" if "diversity" in row else "",
                f"{100 * row['copies']:.1f} ({100 * row['copies_held_out']:.1f})",
                f"{row['training_peak_bytes'] / 1e9:.2f}" if "training_peak_bytes" in row else "",
            )
        )
    return table


def conditions(rows: list[Row]) -> Table:
    """Return what classes become by words, labels and vectors of a CLIP in equal minutes."""
    table: Table = [
        ("set", "minutes", "condition", "seed", "images seen", "n",
         "recognized, % (real), interval",
         "Frechet (floor)", "times the floor", "kernel x 1000 (floor)", "diversity")
    ]  # fmt: skip
    for row in sorted(rows, key=lambda row: (row["case"]["set"], row["case"]["minutes"])):
        case, (low, high) = row["case"], row["interval"]
        right = f"{_percent(row['recognized'])} ({_percent(row['real_recognized'])})"
        table.append(
            (
                _of_split(case),
                f"{case['minutes']:g}",
                case["condition"],
                case["seed"],
                " + ".join(map(str, row["images"])),
                row["n"],
                f"{right}, {_percent(low)} to {_percent(high)}",
                f"{row['frechet']:.1f} ({row['frechet_floor']:.1f})",
                f"{row['frechet'] / row['frechet_floor']:.1f}",
                f"{row['kernel']:.0f} ({row['kernel_floor']:.0f})",
                f"{row['diversity']:.2f}" if "diversity" in row else "",
            )
        )
    return table


def bundled(rows: list[Row]) -> Table:
    """Return the figures of the shipped cascades, on trained and on held-out combinations."""
    table: Table = [
        ("cascade", "combinations", "n", "fully correct, % (real)", "shuffled captions, %",
         "noise of the background, /255", "copies, %")
    ]  # fmt: skip
    for row in rows:
        for name in ("training", "held_out"):
            if (part := row.get(name)) is not None:
                made, real_, other = (
                    part.get(key, {}).get("fully_correct")
                    for key in ("generated", "real", "shuffled")
                )
                noise = part.get("background", {}).get("std")
                table.append(
                    (row["case"]["what"], name.replace("_", " "), part["n"],
                     f"{_percent(made)} ({_percent(real_)})", _percent(other),
                     "" if noise is None else f"{noise:.1f}", _percent(part.get("copies")))
                )  # fmt: skip
    return table


def ways(rows: list[Row]) -> Table:
    """Return what each way to generate reaches in equal minutes."""
    table: Table = [
        ("data", "minutes", "way", "seed", "parameters, M", "fully correct, % (real)",
         "on plain backgrounds, % (real)", "real through its parts, %", "kernel x 1000",
         "grain (real)", "s an image", "calls", "training, GB")
    ]  # fmt: skip
    for row in rows:
        case, plain = row["case"], row["by_texture"].get("no")
        table.append(
            (
                f"{_of_split(case)}{', real' * bool(case['files'])}",
                f"{case['minutes']:g}" if "minutes" in case else "",
                " ".join([case["way"], *(json.dumps(c) for c in [case["changes"]] if c)]),
                case["seed"],
                " + ".join(f"{n / 1e6:.1f}" for n in row["parameters"].values()),
                _against(row["correct"]["all"], row["real_correct"]["all"]),
                _against(plain["correct"]["all"], plain["real_correct"]["all"]) if plain else "",
                _percent(row.get("through", {}).get("all")),
                f"{row['kernel']:.0f}",
                f"{row['grain']:.2f} ({row['grain_real']:.2f})",
                f"{row['seconds_per_image']:.3f}",
                f"{row['calls_per_image']:.0f}",
                f"{row['training_bytes'] / 1e9:.1f}" if "training_bytes" in row else "",
            )
        )
    return table


def classes(rows: list[Row]) -> Table:
    """Return zero-shot accuracy and retrieval of CLIPs on real data."""
    table: Table = [
        ("set", "date", "minutes", "n", "captions", "zero-shot, %", "R@1, R@5 of captions, %",
         "of images, %")
    ]  # fmt: skip
    for row in (row for row in rows if "recall" in row):
        low, high = row.get("interval", (None, None))
        interval = "" if low is None else f" ({_percent(low)} to {_percent(high)})"
        table.append(
            (_of_split(row["case"]), row["date"], f"{row['case']['minutes']:g}", row["n"],
             row["captions"], _percent(row["accuracy"]) + interval, _recall(row["recall"]),
             _recall(row["image_recall"]))
        )  # fmt: skip
    return table


def attributes(rows: list[Row]) -> Table:
    """Return which attributes of embedded data CLIPs recognize."""
    table: Table = [
        ("set", "date", "px", "minutes", "n", "attributes, %", "nearer than swapped colors, %")
    ]
    for row in (row for row in rows if "attributes" in row):
        each = ", ".join(f"{name} {_percent(share)}" for name, share in row["attributes"].items())
        case = row["case"]
        table.append((_of_split(case), row["date"], case.get("side", 64), f"{case['minutes']:g}",
                      row["n"], each, _percent(row["swapped"])))  # fmt: skip
    return table


def autoencoders(rows: list[Row]) -> Table:
    """Return how well autoencoders reconstruct."""
    table: Table = [
        ("set", "kind", "minutes", "n", "parameters, M", "PSNR, dB", "color shift, /255",
         "standard deviation of latents", "codes used, %")
    ]  # fmt: skip
    for row in rows:
        std, usage = row["latent_std"], row["usage"]
        table.append(
            (_of_split(row["case"]), row["case"]["kind"], f"{row['case'].get('minutes', 0):g}",
             row["n"], f"{row['parameters'] / 1e6:.2f}", f"{row['psnr']:.1f}",
             f"{row['color_shift']:.1f}", f"{min(std):.2f} to {max(std):.2f}" if std else "",
             _percent(usage and usage[0]))
        )  # fmt: skip
    return table


def _again(rows: list[Row]) -> Table:
    table: Table = [("directory", "images", "equal byte by byte to what their file makes again")]
    chosen = (row for row in rows if row["case"]["what"] == "again")
    return table + [(r["case"]["directory"], r["images"], r["equal"]) for r in chosen]


def _batch(rows: list[Row]) -> Table:
    table: Table = [("precision", "images", "largest difference, batches of 1, 7, 64, /255")]
    chosen = (row for row in rows if row["case"]["what"] == "batch")
    return table + [(r["case"]["precision"], r["images"], f"{r['largest']:.0f}") for r in chosen]


def _strength(rows: list[Row]) -> Table:
    what = "mean difference to the given image, /255"
    table: Table = [("strength", what, "with the caption of another image")]
    for row in (row for row in rows if row["case"]["what"] == "strength"):
        others = row.get("of_another_caption", {})  # earlier rows lack it
        table += [
            (name, f"{apart:.1f}", f"{others[name]:.1f}" if name in others else "")
            for name, apart in row["mean_difference"].items()
        ]
    return table


def _border(rows: list[Row]) -> Table:
    table: Table = [("square", "gradient across its border / inside of it")]
    for row in (row for row in rows if row["case"]["what"] == "border"):
        table += [(name, f"{ratio:.2f}") for name, ratio in row["border_over_inside"].items()]
    return table


def _interpolation(rows: list[Row]) -> Table:
    table: Table = [("between", "n", "largest step / median step, median", "the largest")]
    for row in (row for row in rows if row["case"]["what"] == "interpolation"):
        found = {name: each for name, each in row.items() if isinstance(each, dict) and "n" in each}
        table += [
            (name, each["n"], f"{each['median']:.2f}", f"{each['largest']:.2f}")
            for name, each in found.items()
        ]
    return table


def _upscale(rows: list[Row]) -> Table:
    table: Table = [("enlarged by", "images", "PSNR, dB", "SSIM")]
    for row in (row for row in rows if row["case"]["what"] == "upscale"):
        table += [
            (name, row["images"], f"{psnr:.1f}", f"{row['ssim'][name]:.3f}")
            for name, psnr in row["psnr"].items()
        ]
    return table


EDITING: Sequence[Callable[[list[Row]], Table]] = (
    _again, _batch, _strength, _border, _interpolation, _upscale,
)  # fmt: skip


def page(rows: list[Row]) -> Table:
    """Return how soon the page is there and shows something."""
    table: Table = [("cascade", "seconds to", "median (quartiles)", "runs")]
    for row in rows:
        for name in ("served", "first_text", "usable", "preview", "again"):
            low, high = row[name]["quartiles"]
            table.append((row["case"]["directory"], name.replace("_", " "),
                          f"{row[name]['median']:.2f} ({low:.2f} to {high:.2f})",
                          row[name]["n"]))  # fmt: skip
    return table


def pretrained(rows: list[Row]) -> Table:
    """Return seconds and memory of both sides."""
    table: Table = [
        ("latents, px", "channels", "steps", "seconds here", "diffusers", "ratio (quartiles)",
         "peak memory here, diffusers, MB")
    ]  # fmt: skip
    peaks = {
        (row["case"]["side"], row["case"]["side_of"]): row["peak_bytes"] / 1e6
        for row in rows
        if row["case"]["what"] == "memory"
    }
    for row in (row for row in rows if row["case"]["what"] == "speed"):
        case, ratio = row["case"], row["ratio"]
        low, high = ratio["quartiles"]
        both = [peaks.get((case["side"], side)) for side in ("ours", "diffusers")]
        table.append(
            (case["side"], "-".join(map(str, case["channels"])), case["steps"],
             *(f"{row[f'{side}_seconds']['median']:.3f}" for side in ("ours", "diffusers")),
             f"{ratio['median']:.2f} ({low:.2f} to {high:.2f})",
             ", ".join("" if peak is None else f"{peak:.0f}" for peak in both))
        )  # fmt: skip
    return table


def fewer_steps(rows: list[Row]) -> Table:
    """Return how far each sampler is from DDIM in 1000 steps, by its own steps."""
    calls = list(next(iter(rows[-1]["distance"].values())))
    table: Table = [("sampler and times", *(f"{n} steps, /255" for n in calls))]
    for name, by_steps in rows[-1]["distance"].items():
        table.append((name, *(f"{by_steps[n]:.1f}" for n in calls)))
    return table


def _of_split(case: Case) -> str:
    """Return the data of a case, and its split where that is not the one of final figures."""
    return ", ".join([case["set"], *(case[name] for name in ("split",) if name in case)])


def _percent(share: Any) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _against(share: float, of_real: float) -> str:
    return f"{_percent(share)} ({_percent(of_real)})"


def _recall(found: Any) -> str:
    values = found.values() if isinstance(found, dict) else found
    return ", ".join(map(_percent, values))
