"""Very small charts for one line of text: curves, histograms and progress bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from functional_nn.reports.notebook.markup import Html, empty_tag, tag

MOST_POINTS = 200
"""The largest number of points that a curve draws. Of a longer one, points at equal distances are drawn."""


def sparkline(values: Sequence[float], label: str, *, width: int = 150, height: int = 34) -> Html:
    """A curve without axes, with a dot at its end. Values that are not finite are gaps."""
    every = max(1, math.ceil(len(values) / MOST_POINTS))
    places = sorted({*range(0, len(values), every), len(values) - 1}) if len(values) else []
    finite = [values[place] for place in places if math.isfinite(values[place])]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    points: list[tuple[float, float] | None] = []
    for place in places:
        value = values[place]
        if math.isfinite(value):
            share = (value - low) / (high - low) if high > low else 0.5
            x = 3 + (width - 6) * (place / (len(values) - 1) if len(values) > 1 else 0.5)
            points.append((x, 3 + (height - 6) * (1 - share)))
        else:
            points.append(None)
    # The pen is lifted at a gap: the next point then begins a new piece (M) instead of a line to it (L).
    path, is_down = [], False
    for point in points:
        if point is not None:
            path.append(f"{'L' if is_down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        is_down = point is not None
    axis = empty_tag("line", x1=0, y1=height - 0.5, x2=width, y2=height - 0.5, class_="fnn-axis")
    parts = [axis, empty_tag("path", d="".join(path), class_="fnn-line")]
    last = next((point for point in reversed(points) if point is not None), None)
    if last is not None:
        parts.append(empty_tag("circle", cx=f"{last[0]:.1f}", cy=f"{last[1]:.1f}", r=2.6, class_="fnn-dot"))
    return _picture(parts, label, width, height)


def histogram(counts: Sequence[int], label: str, *, width: int = 84, height: int = 20) -> Html:
    """Bars for the counts. A count above 0 is at least a pixel high."""
    largest, step = max(counts, default=0), width / max(1, len(counts))
    bars = []
    for number, count in enumerate(counts):
        if count:
            bar = max(1.0, height * count / largest)
            left = number * step
            bars.append(f"M{left:.1f} {height}v{-bar:.1f}h{step - 0.6:.1f}v{bar:.1f}z")
    return _picture([empty_tag("path", d="".join(bars), class_="fnn-bars")], label, width, height)


def bar(done: int, total: int, label: str, *, ending: str = "") -> Html:
    """A progress bar. Its ending is ``ended``, ``cut`` if steps are missing, or "" while it goes on."""
    share = 100 * min(1.0, done / total) if total else 100.0
    inner = tag("div", style=f"width:{share:.1f}%", class_=f"fnn-{ending}" if ending else None)
    return tag(
        "div",
        inner,
        class_="fnn-track",
        role="progressbar",
        aria_label=label,
        aria_valuemin=0,
        aria_valuemax=total,
        aria_valuenow=done,
    )


def _picture(parts: Sequence[Html], label: str, width: int, height: int) -> Html:
    size = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    return tag("svg", *parts, role="img", aria_label=label, **size)
