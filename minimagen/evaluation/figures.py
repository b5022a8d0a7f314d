"""What an evaluation found: figures with their intervals and floors, and sheets of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from minimagen.storage.figures import Figure
from minimagen.storage.files import read_json, write_json
from minimagen.storage.metadata import save_png

SHEETS = "evaluation_sheets"


def rounded(value: float) -> float:
    """Return a number to five digits that count."""
    return float(f"{value:.5g}")


def figure(
    group: str,
    name: str,
    value: float,
    n: int,
    interval: Sequence[float] | None = None,
    real: float | None = None,
    unit: str = "",
) -> Figure:
    """Return a figure, its numbers rounded."""
    low, high = map(rounded, interval) if interval else (None, None)
    floor = None if real is None else rounded(real)
    return Figure(
        group=group, name=name, value=rounded(value), unit=unit, n=n, low=low, high=high, real=floor
    )


def share(group: str, name: str, value: float, n: int, real: float | None = None) -> Figure:
    """Return a share in [0, 1] as per cent, with Wilson's interval."""
    from minimagen.evaluation.metrics import wilson_interval

    interval = [100 * end for end in wilson_interval(round(value * n), n)]
    floor = None if real is None else 100 * real
    return figure(group, name, 100 * value, n, interval, floor, "%")


def mean(
    group: str,
    name: str,
    values: Tensor,
    n: int,
    units: Sequence[str] | None = None,
    real: float | None = None,
    unit: str = "",
) -> Figure:
    """Return the mean of values [k] of ``n`` images, with its ``mean_interval`` over ``units``."""
    from minimagen.evaluation.metrics import mean_interval

    interval = mean_interval(values, units)
    return figure(group, name, float(values.double().mean()), n, interval, real, unit)


def write_sheets(folder: Path, sheets: Mapping[str, Image.Image]) -> None:
    """Write sheets in place of those of an earlier evaluation; ``sheets.json`` has their titles."""
    where = folder / SHEETS
    where.mkdir(parents=True, exist_ok=True)
    names = {f"sheet_{i}.png": title for i, title in enumerate(sheets)}
    for name, image in zip(names, sheets.values(), strict=True):
        save_png(where / name, image)
    write_json(where / "sheets.json", names)


def read_sheets(folder: Path) -> dict[str, Path]:
    """Return the sheets of the last evaluation by title."""
    path = folder / SHEETS / "sheets.json"
    names = read_json(path) if path.is_file() else {}
    return {title: path.parent / Path(name).name for name, title in names.items()}
