"""Curves as inline SVG: they follow the page's colors, light or dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from minimagen.evaluation.history import Points
from minimagen.storage.figures import shown

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 240, 52, 26, 10, 10
MOST = 400  # points of a line
COLORS = 8  # that the style has, see ``html.CHART_STYLE``


def chart(title: str, lines: Mapping[str, Points], logarithmic: bool = False) -> str:
    """Return a figure with a line for each name; points are (step, value)."""
    kept = {
        name: thinned([p for p in points if p[1] > 0] if logarithmic else points)
        for name, points in lines.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    axes = _Axes([p for points in kept.values() for p in points], logarithmic)
    drawn = "".join(axes.line(i, points) for i, points in enumerate(kept.values()))
    legend = "".join(
        f'<span class="key"><i class="c{i % COLORS}"></i>{escape(name)}</span>'
        for i, name in enumerate(kept)
    )
    return (
        f"<figure><figcaption>{escape(title)}{' (logarithmic)' * logarithmic}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'{axes.grid()}{drawn}</svg><div class="legend">{legend}</div></figure>'
    )


def thinned(points: Points) -> Points:
    """Return at most about ``MOST`` points, the last one among them."""
    every = math.ceil(len(points) / MOST)
    return points if every <= 1 else [*points[:-1:every], points[-1]]


class _Axes:
    """Maps points to places in the drawing."""

    def __init__(self, points: Sequence[tuple[float, float]], logarithmic: bool) -> None:
        self._log = logarithmic
        values = [self._scaled(value) for _, value in points]
        self._low, self._high = min(values), max(values)
        if self._high == self._low:
            self._low, self._high = self._low - 0.5, self._high + 0.5
        self._first = min(step for step, _ in points)
        self._last = max(max(step for step, _ in points), self._first + 1)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def _x(self, step: float) -> float:
        share = (step - self._first) / (self._last - self._first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def _y(self, scaled: float) -> float:
        share = (scaled - self._low) / (self._high - self._low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def line(self, i: int, points: Points) -> str:
        places = [f"{self._x(s):.1f},{self._y(self._scaled(v)):.1f}" for s, v in points]
        if len(places) == 1:
            x, y = places[0].split(",")
            return f'<circle class="c{i % COLORS}" cx="{x}" cy="{y}" r="3"/>'
        return f'<polyline class="c{i % COLORS}" points="{" ".join(places)}"/>'

    def grid(self) -> str:
        rows = []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            scaled = self._low + share * (self._high - self._low)
            y, value = self._y(scaled), 10**scaled if self._log else scaled
            rows.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            label = f"{value:.1e}" if 0 < abs(value) < 1e-3 else shown(value)
            rows.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            step = self._first + share * (self._last - self._first)
            rows.append(
                f'<text x="{self._x(step):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
                f"{step:,.0f}</text>"
            )
        return "".join(rows)
