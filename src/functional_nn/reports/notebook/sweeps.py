"""Sweeps in a notebook: the best models, their settings averaged over seeds, and one member with its curves."""

from __future__ import annotations

import math

from functional_nn.core.counts import counted
from functional_nn.core.texts import words
from functional_nn.reports.notebook.charts import sparkline
from functional_nn.reports.notebook.markup import Html, facts, faint, fold, table, tag, title, view
from functional_nn.reports.notebook.runs import curves_html, status_badge
from functional_nn.sweeps.member import Member
from functional_nn.sweeps.results import SweepResult, ranked_settings, sentences, shown_value

MOST_MODELS = 10
"""The number of models in the table of the best, and of settings."""


def sweep_html(result: SweepResult) -> str:
    """The best models with their curves, and in a fold the settings averaged over their seeds."""
    count = counted(len(result.members), "model")
    heading = title("Sweep", faint(count))
    lines = [tag("p", line) for line in sentences(result)] if result.members else []
    if not any(member.epochs for member in result.members):
        return view(heading, *lines)
    parts = [heading, *lines, _best_models(result)]
    if "seed" in result.varied and len(result.varied) > 1:
        parts.append(fold("settings, averaged over seeds", _settings(result)))
    return view(*parts)


def _best_models(result: SweepResult) -> Html:
    metric = result.metric
    members = result.ranked()[:MOST_MODELS]
    tested = list(members[0].test_metrics)
    heads = ["", "member", *result.varied, words(metric), "curve", *map(words, tested), "epochs", "status"]
    rows = []
    for place, member in enumerate(members, 1):
        curve = [float(value) for value in member.curves.get(metric, ())]
        picture = sparkline(curve, f"{words(metric)} of member {member.number}", width=84, height=20) if curve else ""
        rows.append(
            [
                str(place),
                str(member.number),
                *(shown_value(member.hyperparameters[name]) for name in result.varied),
                tag("strong", _number(member.last(metric))),
                picture,
                *(_number(member.test_metrics.get(name, math.nan)) for name in tested),
                str(member.epochs),
                status_badge(member.status),
            ]
        )
    first = 3 + len(result.varied)
    numbers = {*range(first), *range(first + 1, len(heads) - 1)}
    left_out = len(result.members) - len(members)
    more = tag("p", faint(f"and {counted(left_out, 'model')} more: result.rows()")) if left_out else Html("")
    return Html(table(heads, rows, numbers=numbers, label=f"best models by {words(metric)}") + more)


def _settings(result: SweepResult) -> Html:
    metric = result.metric
    names = [name for name in result.varied if name != "seed"]
    settings = ranked_settings(result, metric)
    interrupted = any(setting.not_run for setting in settings)
    not_run_column = ["not run"] if interrupted else []
    heads = [*names, "models", f"mean {words(metric)}", "± 95%", "not finite", *not_run_column]
    rows = [
        [
            *(shown_value(setting.hyperparameters[name]) for name in names),
            str(setting.models),
            _number(setting.mean),
            _number(setting.half_width),
            str(setting.not_finite or ""),
            *([str(setting.not_run or "")] if interrupted else []),
        ]
        for setting in settings[:MOST_MODELS]
    ]
    left_out = len(settings) - len(rows)
    more = tag("p", faint(f"and {counted(left_out, 'setting')} more")) if left_out else Html("")
    return Html(table(heads, rows, numbers=range(len(heads)), label="settings") + more)


def member_html(member: Member) -> str:
    """The hyper-parameters of a model, its status, and its curves."""
    after = f"after {counted(member.epochs, 'epoch')}"
    pairs = [(name, shown_value(value)) for name, value in member.hyperparameters.items()]
    pairs += [(f"{words(name)} at the end", f"{value:.4f}") for name, value in member.test_metrics.items()]
    curves = curves_html({name: curve for name, curve in member.curves.items() if len(curve)})
    return view(title(f"Member {member.number}", status_badge(member.status), after), facts(pairs), curves)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
