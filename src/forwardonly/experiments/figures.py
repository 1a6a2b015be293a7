"""Figures as SVG, with the colours of the page's style sheet, so that they suit light and dark mode.

Series are coloured by classes `s0`, `s1`, ... which the page defines. Coordinates are in SVG units; a figure is 420
wide and scales with its column, so that text stays readable on a phone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Self

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 40


@dataclass(frozen=True)
class Line:
    """One series: its name, colour and points, and the band (low, high) around them if there is one."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class _Axis:
    """Maps values to coordinates, and chooses round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high = low, high
        self.start, self.end = start, end

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Self:
        """An axis that covers all finite values, with a margin at its ends."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, about: int = 5) -> list[float]:
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step) + 1)]


def lines(series: Sequence[Line], x_label: str, y_label: str) -> str:
    """Curves over a common axis."""
    x = _Axis.around([value for line in series for value in line.x], LEFT, WIDTH - RIGHT)
    spread = [v for line in series for values in (line.y, line.low or (), line.high or ()) for v in values]
    y = _Axis.around(spread, HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, HEIGHT, x_label, y_label)
    for line in series:
        if line.low is not None and line.high is not None:
            edge = [*zip(line.x, line.low, strict=True), *reversed([*zip(line.x, line.high, strict=True)])]
            parts.append(f'<polygon class="band s{line.colour}" points="{_points(edge, x, y)}"/>')
        path = _points([*zip(line.x, line.y, strict=True)], x, y)
        parts.append(
            f'<polyline class="line s{line.colour}" points="{path}"><title>{escape(line.name)}</title></polyline>'
        )
    return _svg(parts, HEIGHT, f"{y_label} over {x_label}")


def dots(rows: Sequence[tuple[str, int, Sequence[float], tuple[float, float] | None]], x_label: str) -> str:
    """A row of points for each (name, colour, values, interval of their mean); a stroke marks the mean."""
    pitch = 46
    height = TOP + pitch * len(rows) + BOTTOM
    spread = [value for _, _, values, interval in rows for value in (*values, *(interval or ()))]
    x = _Axis.around(spread, 14, WIDTH - 14)
    parts = _frame(x, None, height, x_label, "")
    for index, (name, colour, values, interval) in enumerate(rows):
        middle = TOP + pitch * index + 32
        parts.append(f'<text x="14" y="{middle - 16}">{escape(name)}</text>')
        if interval is not None:
            parts.append(
                f'<line class="line s{colour}" x1="{x(interval[0])}" x2="{x(interval[1])}" y1="{middle}" '
                f'y2="{middle}"/>'
            )
        mean = x(sum(values) / len(values))
        parts.append(f'<line class="line s{colour}" x1="{mean}" x2="{mean}" y1="{middle - 8}" y2="{middle + 8}"/>')
        for value in values:
            parts.append(
                f'<circle class="dot s{colour}" cx="{x(value)}" cy="{middle}" '
                f'r="4.5"><title>{value:.5g}</title></circle>'
            )
    return _svg(parts, height, x_label)


def heat(rows: Sequence[Sequence[float]], x_label: str, y_label: str) -> str:
    """A matrix (K, C) of shares from 0 to 1, its K rows from left to right; darker cells have larger shares.

    Equal neighbours are drawn as one, in 20 shades, so that a thousand sorted rows stay a small file.
    """
    count, classes = len(rows), len(rows[0])
    pitch = max(3.0, min(14.0, 160 / classes))
    height = round(TOP + pitch * classes + BOTTOM)
    x = _Axis(0.0, float(count), LEFT, WIDTH - RIGHT)
    parts = []
    for c in range(classes):
        shades = [round(20 * row[c]) for row in rows]
        first = 0
        for k in range(1, count + 1):
            if k == count or shades[k] != shades[first]:
                if shades[first]:
                    parts.append(
                        f'<rect class="cell" x="{x(first)}" y="{TOP + pitch * c:.1f}" width="{x(k) - x(first):.1f}" '
                        f'height="{pitch:.1f}" fill-opacity="{shades[first] / 20:g}"/>'
                    )
                first = k
        if classes <= 20 or c % 10 == 0:
            middle = TOP + pitch * (c + 0.5) + 4
            parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{middle:.1f}">{c}</text>')
    return _svg([*_frame(x, None, height, x_label, y_label), *parts], height, f"{y_label} by {x_label}")


def legend(names: Sequence[tuple[str, int]]) -> str:
    """The key to the colours, as HTML."""
    items = "".join(f'<li><span class="key s{colour}"></span>{escape(name)}</li>' for name, colour in names)
    return f'<ul class="legend">{items}</ul>'


def _frame(x: _Axis, y: _Axis | None, height: int, x_label: str, y_label: str) -> list[str]:
    floor = height - BOTTOM
    parts = []
    for tick in x.ticks():
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="tick" text-anchor="middle" x="{x(tick)}" y="{floor + 15}">{tick:g}</text>')
    for tick in y.ticks() if y is not None else ():
        assert y is not None
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y(tick) + 4}">{tick:g}</text>')
    parts.append(f'<text class="tick" text-anchor="middle" x="{WIDTH / 2}" y="{height - 6}">{escape(x_label)}</text>')
    if y_label:
        middle = (TOP + floor) / 2
        parts.append(
            f'<text class="tick" text-anchor="middle" transform="translate(11 {middle}) '
            f'rotate(-90)">{escape(y_label)}</text>'
        )
    return parts


def _points(pairs: Sequence[tuple[float, float]], x: _Axis, y: _Axis) -> str:
    return " ".join(f"{x(a)},{y(b)}" for a, b in pairs if math.isfinite(b))


def _svg(parts: Sequence[str], height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
