"""The report's tables of data, faults and foreign files; the first row of each is its header."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.measuring import Row

Table = list[Sequence[Any]]


def speed(rows: list[Row]) -> Table:
    """Return samples per second of every source."""
    table: Table = [
        ("source", "stored, px", "read, px", "samples/s per core, first pass", "later passes",
         "by the clock: first", "later")
    ]  # fmt: skip
    for row in (row for row in rows if row["case"]["what"] == "speed"):
        case = row["case"]
        stored = "drawn" if case["source"] == "shapes" else case["stored"]
        rates = (
            f"{row[f'{name}_per_{unit}']:.0f}"
            for unit in ("core_second", "second")
            for name in ("first", "later")
        )
        table.append((case["source"], stored, case["side"], *rates))
    return table


def waiting(rows: list[Row]) -> Table:
    """Return the share of training time spent waiting for data."""
    table: Table = [("stage", "source", "workers", "step, s", "time waited", "of it for text")]
    for row in (row for row in rows if row["case"]["what"] == "waiting"):
        case = row["case"]
        shares = (f"{row[name]:.1%}" for name in ("share", "text_share"))
        columns = (case["stage"], case["source"], case["num_workers"])
        table.append((*columns, f"{row['step_seconds']:.3f}", *shares))
    return table


def beside(rows: list[Row]) -> Table:
    """Return how fast training and sampling are alone and on the same cores."""
    table: Table = [("what", "a second alone", "a second beside the other", "speed kept")]
    names = {"train": "training, steps", "sample": "sampling, batches of 16"}
    for row in rows:
        for name, shown in names.items():
            alone, other = row["alone"][name], row["beside"][name]
            table.append((shown, f"{alone:.2f}", f"{other:.2f}", f"{row['kept'][name]:.2f}"))
    return table


def memory(rows: list[Row]) -> Table:
    """Return what long lists cost."""
    table: Table = [
        ("images in metadata.jsonl", "private memory of the list, MB",
         "after 5,000 were read, MB", "first start, s", "next start, s")
    ]  # fmt: skip
    for row in (row for row in rows if row["case"]["what"] == "memory"):
        sizes = (f"{row[name] / 1e6:.1f}" for name in ("list_bytes", "read_bytes"))
        seconds = (f"{row[name]:.2f}" for name in ("seconds", "seconds_again"))
        table.append((f"{row['case']['rows']:,}", *sizes, *seconds))
    return table


def flatness(rows: list[Row]) -> Table:
    """Return the anonymous memory of a training, early and late."""
    table: Table = [
        ("source", "workers", "memory from the heap", "early, MB", "late, MB", "growth", "<= 10 %")
    ]
    for row in rows:
        case = row["case"]
        sizes = (f"{row[name] / 1e6:.1f}" for name in ("early_bytes", "late_bytes"))
        heap = "all" if case["environment"] else "as glibc chooses"
        kept = "yes" if row["growth"] <= 1.1 else "NO"
        columns = (case["source"], case["workers"], heap)
        table.append((*columns, *sizes, f"{row['growth'] - 1:+.1%}", kept))
    return table


def faults(rows: list[Row]) -> Table:
    """Return every fault, how often it was tried, and what was lost."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["case"]["fault"]].append(row)
    table: Table = [
        ("fault", "times", "checkpoints lost", "unreadable by inference.py",
         "resumed to other bits", "not reported", "foreign code run", "of them")
    ]  # fmt: skip
    for name, members in groups.items():
        counts = (
            sum(row["lost"] for row in members),
            sum(not row["readable"] for row in members),
            sum(not row["same_bits"] for row in members),
            sum(not row.get("said", True) for row in members),
            sum(row.get("code_ran", False) for row in members),
        )
        table.append((name.replace("_", " "), len(members), *counts, _of_them(members)))
    return table


def _of_them(rows: list[Row]) -> str:
    counts = {
        "inside the write of a checkpoint": sum(_written(row, "tmp/") for row in rows),
        "of weights": sum(_written(row, "state_dicts/") for row in rows),
        "before there was anything to save": sum(not row.get("began", True) for row in rows),
        "on a tmpfs": sum(row.get("mounted", False) for row in rows),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _written(row: Row, folder: str) -> bool:
    return any(part.startswith(folder) for part in row.get("in_write", ()))


def foreign(rows: list[Row]) -> Table:
    """Return how many damaged files of every kind were tried, and what came of them."""
    table: Table = [
        ("kind of file", "inputs", "read", "refused in one line", "escapes", "code run")
    ]
    for row in rows:
        escapes, ran = sum(row["escapes"].values()), "YES" if row["code_ran"] else "no"
        case = row["case"]
        table.append((case["kind"], case["inputs"], row["read"], row["refused"], escapes, ran))
    total = [sum(int(row[i]) for row in table[1:]) for i in range(1, 5)]
    return [*table, ("all", *total, "")]
