"""The printed table of a sweep: one line for each setting, the best first."""

from __future__ import annotations

import math

from functional_nn.core.texts import aligned, words
from functional_nn.sweeps.results.member import HasMembers, chosen_metric
from functional_nn.sweeps.results.statistics import Setting, summarize
from functional_nn.training.epoch_metrics import larger_is_better

MOST_ROWS = 20
"""The largest number of settings in the table."""


def settings_table(result: HasMembers) -> list[str]:
    """The lines of the table."""
    cells, left_out = settings_cells(result)
    lines = aligned(cells, numbers_from=0)
    if left_out:
        lines.append(f"… and {left_out} more")
    return lines


def settings_cells(result: HasMembers) -> tuple[list[list[str]], int]:
    """The cells of the table, with the heads first, and the number of settings that are left out."""
    metric = chosen_metric(result, None)
    settings = ranked_settings(result, metric)
    names = [name for name in result.varied if name != "seed"]
    listed = settings[:MOST_ROWS]
    # The column of epochs is shown only if members ran different numbers of epochs.
    uneven = len({epochs for row in settings if row.models for epochs in row.epochs}) > 1
    epochs_column = ["epochs"] if uneven else []
    # After an interruption, a column counts the members that were not run.
    interrupted = any(row.not_run for row in settings)
    not_run_column = ["not run"] if interrupted else []
    cells = [
        [*names, *epochs_column, "models", words(metric), "± 95%", "not finite", *not_run_column],
    ]
    for row in listed:
        spread = "" if math.isnan(row.half_width) else f"{row.half_width:.4f}"
        mean = "" if math.isnan(row.mean) else f"{row.mean:.4f}"
        values = [shown_value(row.hyperparameters[name]) for name in names]
        epochs = ["–".join(map(str, dict.fromkeys(row.epochs)))] if uneven else []
        not_run = [str(row.not_run or "")] if interrupted else []
        cells.append([*values, *epochs, str(row.models), mean, spread, str(row.not_finite or ""), *not_run])
    return cells, len(settings) - len(listed)


def ranked_settings(result: HasMembers, metric: str) -> list[Setting]:
    """The settings of the hyper-parameters, averaged over their seeds, the best first."""
    return sorted(summarize(result, metric), key=lambda row: place_of(row, metric))


def place_of(row: Setting, metric: str) -> tuple[bool, float]:
    """A key to sort settings by: the best is first, and those without a mean are last."""
    if math.isnan(row.mean):
        return True, 0.0
    return False, -row.mean if larger_is_better(metric) else row.mean


def shown_value(value: object) -> str:
    """The value of a hyper-parameter as tables and pictures show it."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)
