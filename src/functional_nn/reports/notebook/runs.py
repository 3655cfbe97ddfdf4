"""Runs in a notebook: progress, status, curves and last metrics, the table of epochs, and where a NaN comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from functional_nn.bench.units import in_seconds
from functional_nn.core.counts import counted
from functional_nn.core.progress import ProgressState
from functional_nn.core.texts import words
from functional_nn.jaxprs.non_finite.report import NonFinite
from functional_nn.reports.notebook.charts import bar, sparkline
from functional_nn.reports.notebook.markup import Html, badge, facts, faint, fold, joined, table, tag, title, view
from functional_nn.training.evaluate import larger_is_better
from functional_nn.training.run import EpochHistory, EpochMetrics, Run

MOODS = {"finished": "good", "non-finite": "bad"}
"""The colors of statuses; all others are ``open``."""
MARKS = {"good": "✓", "bad": "✗", "open": "■"}
MOST_EPOCHS = 50
"""Of a longer history, the table shows epochs at equal distances, and the last."""


def progress_html(state: ProgressState) -> str:
    """One line: the title, the bar, and what stands beside it."""
    texts = [f"{state.done}/{state.total}", in_short(state.seconds)]
    left, is_cut = state.seconds_left, state.has_ended and state.done < state.total
    if left is not None:
        texts.append(f"{in_short(left)} left")
    ending = ("cut" if is_cut else "ended") if state.has_ended else ""
    track = bar(state.done, state.total, state.title, ending=ending)
    cut = badge("ended early", "open") if is_cut else Html("")
    parts = (
        tag("span", state.title),
        track,
        *(faint(text) for text in texts),
        cut,
        tag("span", state.text.replace("  ", ", ")),
    )
    return view(tag("div", *(part for part in parts if part), class_="fnn-progress"))


def in_short(seconds: float) -> str:
    """A time in seconds, or in minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def status_badge(status: str) -> Html:
    """The status of a run in color, with a mark for those who do not see the color."""
    mood = MOODS.get(status, "open")
    return badge(f"{MARKS[mood]} {status}", mood)


def run_html(run: Run) -> str:
    """Status, curves with the last values, and the epochs in a fold."""
    epochs = counted(len(run.history), "epoch")
    seconds = ", ".join(f"{name} {in_seconds(value)}" for name, value in run.seconds.items() if value)
    restored = f"{run.restored_epochs} from a checkpoint" if run.restored_epochs else ""
    heading = title(
        "Run", status_badge(run.status), f"after {epochs}", faint(", ".join(filter(None, (restored, seconds))))
    )
    parts = [heading]
    if run.message:
        parts.append(tag("p", run.message))
    if run.history:
        parts.append(curves_html(_curves(run.history)))
    at_end = {} if not run.history else run.history[-1].metrics
    others = {name: value for name, value in run.test_metrics.items() if name not in at_end}
    if others:
        parts.append(facts([(f"{words(name)} at the end", f"{value:.4f}") for name, value in others.items()]))
    if run.history:
        parts.append(fold("epochs", _epochs(run.history)))
    return view(*parts)


def curves_html(curves: Mapping[str, Sequence[float] | np.ndarray]) -> Html:
    """A small curve for each metric, with its name, its last value and its best one."""
    parts = []
    for name, values in curves.items():
        last = float(values[-1])
        finite = [float(value) for value in values if np.isfinite(value)]
        best = (max if larger_is_better(name) else min)(finite) if finite else last
        label = f"{words(name)}: {len(values)} epochs, from {float(values[0]):.4g} to {last:.4g}"
        note = faint(f"best {best:.4f}") if finite and best != last else Html("")
        text = joined((words(name), " ", tag("strong", f"{last:.4f}"), " ", note))
        parts.append(tag("div", tag("span", text), sparkline([float(value) for value in values], label)))
    return tag("div", *parts, class_="fnn-curves")


def history_html(history: EpochHistory) -> str:
    """A table of the epochs."""
    return view(title("Epochs", faint(str(len(history)))), _epochs(history) if history else Html(""))


def _curves(history: Sequence[EpochMetrics]) -> dict[str, list[float]]:
    return {name: [row.metrics.get(name, float("nan")) for row in history] for name in history[-1].metrics}


def _epochs(history: Sequence[EpochMetrics]) -> Html:
    """A row for each epoch; columns that say nothing, such as steps that were skipped if none was, are left out."""
    every = max(1, -(-len(history) // MOST_EPOCHS))
    shown = [row for number, row in enumerate(history, 1) if number % every == 0 or number in (1, len(history))]
    metrics = list(history[-1].metrics)
    usual = {"skipped_steps": 0, "clipped_steps": 0, "rate_share": 1.0, "learning_rate": history[0].learning_rate}
    extra = [name for name, value in usual.items() if any(getattr(row, name) != value for row in history)]
    heads = ["epoch", *map(words, metrics), *map(words, extra), "time"]
    rows = []
    for row in shown:
        numbers = [f"{row.metrics.get(name, float('nan')):.4f}" for name in metrics]
        others = ["" if (value := getattr(row, name)) is None else f"{value:g}" for name in extra]
        rows.append([str(row.epoch), *numbers, *others, in_seconds(row.seconds)])
    found = table(heads, rows, numbers=range(1, len(heads)), label="epochs")
    left_out = len(history) - len(shown)
    return joined((found, tag("p", faint(f"{left_out} epochs in between are not shown")))) if left_out else found


def non_finite_html(found: NonFinite) -> str:
    """The origin of a number that is not finite: what, where, why, and what to do."""
    if not found.found:
        return view(title("All numbers are finite", badge("✓", "good")))
    # The sentence says the cause, and the text below has the source line, which needs letters of equal width.
    pairs = [("remedy", found.remedy), ("note", found.note)]
    return view(
        title("Not finite", badge("✗", "bad"), ", ".join(found.affected[:5])),
        tag("p", found.sentence),
        facts([(name, text) for name, text in pairs if text]),
        fold("where", tag("pre", str(found))),
    )
