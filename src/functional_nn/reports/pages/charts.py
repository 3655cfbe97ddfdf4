"""Charts as plain SVG in the colors of the page: lines over epochs, and small lines for tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
"""Room around the lines, for the axes and their texts."""

STYLES = (("var(--hand)", ""), ("var(--automatic)", "6 3"), ("var(--good)", "2 3"), ("var(--open)", "8 3 2 3"))
"""The color and the dashes of each line, so that lines differ without color, too."""

LOGARITHMIC = 20
"""An axis of positive numbers is logarithmic if the largest is this many times the smallest."""

LARGEST = 1e150
"""Numbers beyond it are left out of charts, and differences below 1 / LARGEST count as none: scales would overflow."""

MOST_MARKERS = 40
"""With more points than this, a line has no markers."""


class Line(NamedTuple):
    """A line of a chart: its name, its points, and its place in ``STYLES``.

    A point with a number that is not finite, or beyond ``LARGEST``, is left out.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0


class Scale(NamedTuple):
    """Maps numbers to places between two ends; see ``scale_of``."""

    low: float
    high: float
    is_logarithmic: bool
    start: float
    end: float

    def place(self, value: float) -> float:
        """The place of a number, rounded to a tenth."""
        low, high = self.low, self.high
        if self.is_logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round numbers within the scale."""
        if self.is_logarithmic:
            # 1, 2 and 5 times each power of ten; if these are too many, only the powers; and if even these are, only
            # some.
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1,)):
                ticks = [digit * 10.0**exponent for exponent in exponents for digit in digits]
                # Powers of ten are rounded, so a tick at an end of the scale may be a little outside.
                ticks = [tick for tick in ticks if self.low <= tick * (1 + 1e-9) and tick <= self.high * (1 + 1e-9)]
                if len(ticks) <= 7:
                    break
            return ticks[:: math.ceil(len(ticks) / 7)] if ticks else [self.low, self.high]
        step = nice_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        # A step has one digit. One more removes the rounding errors of the products, such as 3 · 0.1.
        digits = 1 - math.floor(math.log10(step))
        return [round(number * step, digits) for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale_of(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    logarithmic: bool | None = None,
    within: tuple[float, float] | None = None,
) -> Scale:
    """A scale for numbers, of which those that cannot be drawn do not count.

    Args:
        values: the numbers.
        start, end: the places of the lowest and the highest number.
        logarithmic: None decides by the numbers.
        within: limits that the scale does not go beyond, such as 0 and 1 for an accuracy.

    >>> scale_of([0.2, 0.9], 0, 100, within=(0, 1)).ticks()
    [0.2, 0.4, 0.6, 0.8]
    """
    finite = [value for value in values if _can_be_drawn(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if logarithmic is None:
        logarithmic = low > 1 / LARGEST and high / low >= LOGARITHMIC
    if logarithmic:
        low, high = max(low, 1 / LARGEST), max(high, 1 / LARGEST)
    if high - low < 1 / LARGEST:
        room = abs(low) * 0.1 if abs(low) > 1 / LARGEST else 0.5
        low, high, logarithmic = low - room, high + room, False
    elif logarithmic:
        # Room at both ends: 3% of the length of a logarithmic axis, and 4% of a linear one.
        room = (high / low) ** 0.03
        low, high = low / room, high * room
    else:
        room = (high - low) * 0.04
        low, high = low - room, high + room
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
        if low >= high:
            low, high = within
    return Scale(low, high, logarithmic, start, end)


def _can_be_drawn(value: float) -> bool:
    return abs(value) <= LARGEST  # False for NaN


def nice_step(step: float) -> float:
    """The next larger of 1, 2 and 5 times a power of ten.

    >>> nice_step(0.13), nice_step(3)
    (0.2, 5.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1.0, 2.0, 5.0, 10.0) if digit * power >= step * (1 - 1e-9))


def number(value: float | None, digits: int = 4) -> str:
    """A number with a few significant digits, as a page shows it.

    >>> number(0.123456), number(1e-7), number(None), number(float("nan"))
    ('0.1235', '1e−7', '–', 'not finite')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def axes(x: Scale, y: Scale, x_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    """The axes of a chart, with their grid lines and texts."""
    parts = []
    for tick in y.ticks():
        at = y.place(tick)
        parts.append(f'<path class="grid" d="M{x.start} {at}H{x.end}"/>')
        parts.append(f'<text x="{x.start - 6}" y="{at + 4}" text-anchor="end">{number(tick)}</text>')
    for tick in x_ticks:
        at = x.place(tick)
        parts.append(f'<text x="{at}" y="{y.start + 17}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{x.start} {y.end}V{y.start}H{x.end}"/>')
    middle = (x.start + x.end) / 2
    parts.append(f'<text x="{middle}" y="{y.start + 34}" text-anchor="middle">{escape(x_label)}</text>')
    if y_label:
        parts.append(f'<text x="{x.start}" y="{y.end - 6}" text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def epoch_ticks(epochs: Sequence[float]) -> list[float]:
    """Whole numbers for an axis of epochs: at most seven.

    >>> epoch_ticks([1, 2, 3]), epoch_ticks(range(1, 41))
    ([1, 2, 3], [10.0, 20.0, 30.0, 40.0])
    """
    first, last = min(epochs), max(epochs)
    if last - first < 7:
        return list(range(int(first), int(last) + 1))
    step = max(1.0, nice_step((last - first) / 5))
    return [tick * step for tick in range(math.ceil(first / step), math.floor(last / step) + 1)]


def points(line: Line, x: Scale, y: Scale) -> list[list[tuple[float, float]]]:
    """The places of a line's points, in pieces. A number that cannot be drawn ends a piece."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(line.x, line.y, strict=True):
        if not _can_be_drawn(value) or (y.is_logarithmic and value <= 0):
            pieces.append([])
            continue
        pieces[-1].append((x.place(at), y.place(value)))
    return [piece for piece in pieces if piece]


def path(pieces: Sequence[Sequence[tuple[float, float]]]) -> str:
    """The ``d`` of an SVG path through points."""
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in piece) for piece in pieces)


def line_chart(lines: Sequence[Line], label: str, *, share: bool = False) -> str:
    """Draws lines over epochs as SVG, with a legend if there are several.

    Args:
        lines: the lines.
        label: what is drawn, for people who cannot see it.
        share: whether the numbers are shares, between 0 and 1.
    """
    epochs = [at for line in lines for at in line.x]
    x = scale_of(epochs, LEFT, WIDTH - RIGHT, logarithmic=False)
    values = [value for line in lines for value in line.y]
    y = scale_of(values, HEIGHT - BOTTOM, TOP, logarithmic=False if share else None, within=(0, 1) if share else None)
    parts = [axes(x, y, epoch_ticks(epochs), "epoch", "")]
    legend = []
    for line in lines:
        color, dashes = STYLES[line.style]
        pieces = points(line, x, y)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<path class="line" style="stroke:{color}"{dash} d="{path(pieces)}"/>')
        if len(line.x) <= MOST_MARKERS:
            for at, value in zip(line.x, line.y, strict=True):
                for place in points(Line(line.name, [at], [value]), x, y):
                    text = f"{line.name}, epoch {at:g}: {number(value)}"
                    circle = f'<circle cx="{place[0][0]:g}" cy="{place[0][1]:g}" r="3" style="fill:{color}">'
                    parts.append(f"{circle}<title>{escape(text)}</title></circle>")
        sample = f'<svg class="sample" viewBox="0 0 30 8" aria-hidden="true"><path class="line" style="stroke:{color}"'
        legend.append(f'<span>{sample}{dash} d="M1 4H29"/></svg> {escape(line.name)}</span>')
    key = f'<div class="legend">{"".join(legend)}</div>' if len(lines) > 1 else ""
    svg = f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return f"{key}{svg}{''.join(parts)}</svg>"


def small_line(values: Sequence[float | None], label: str, *, logarithmic: bool = False) -> str:
    """Draws numbers as a small line for a cell of a table; nothing if there are fewer than two."""
    known = [math.nan if value is None else value for value in values]
    if logarithmic:
        known = [value if value > 0 else math.nan for value in known]
    if sum(map(_can_be_drawn, known)) < 2:
        return ""
    x = Scale(0, len(known) - 1, False, 3, 87)
    y = scale_of(known, 21, 3, logarithmic=logarithmic)
    d = path(points(Line("", range(len(known)), known), x, y))
    svg = f'<svg class="small" role="img" aria-label="{escape(label)}" viewBox="0 0 90 24">'
    return f'{svg}<title>{escape(label)}</title><path class="line" d="{d}"/></svg>'
