"""The printed table of a sweep: one line per setting, its seeds together, the best first."""

from __future__ import annotations

import math
from typing import Any

from functional_nn.sweeps.results.member import HasMembers
from functional_nn.sweeps.results.statistics import Setting, summarize

MOST_ROWS = 20
"""The most settings that are listed."""


def settings_table(result: HasMembers) -> list[str]:
    """The lines of the table."""
    settings = sorted(summarize(result), key=_worst_last)
    names = [name for name in result.varied if name != "seed"]
    listed = settings[:MOST_ROWS]
    uneven = len({epochs for row in settings if row.models for epochs in row.epochs}) > 1
    cells = [[*names, *(["epochs"] if uneven else []), "models", "test accuracy", "± 95%", "not finite"]]
    for row in listed:
        spread = "" if math.isnan(row.half_width) else f"{row.half_width:.4f}"
        mean = "" if math.isnan(row.mean) else f"{row.mean:.4f}"
        values = [shown_value(row.hyperparameters[name]) for name in names]
        epochs = ["–".join(map(str, dict.fromkeys(row.epochs)))] if uneven else []
        cells.append([*values, *epochs, str(row.models), mean, spread, str(row.not_finite or "")])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in cells]
    left_out = len(settings) - len(listed)
    return lines + ([f"… and {left_out} more"] if left_out else [])


def _worst_last(row: Setting) -> tuple[bool, float]:
    return math.isnan(row.mean), 0.0 if math.isnan(row.mean) else -row.mean


def shown_value(value: Any) -> str:
    """A hyper-parameter's value as tables and pictures have it."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
