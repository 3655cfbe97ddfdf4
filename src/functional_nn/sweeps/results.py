"""The results of a sweep: members, tables with their columns, statistics over seeds, and choices."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from functional_nn.core.display import html_table
from functional_nn.core.errors import InputError, check, escaped, shortened, shown
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shapes
from functional_nn.core.texts import aligned, suggest, words
from functional_nn.core.validation import check_choice, is_array, is_numeric
from functional_nn.storage.files import check_path, finite_json, write_whole
from functional_nn.sweeps.grid import PlainValue
from functional_nn.training.evaluate import default_metric, rank_of
from functional_nn.training.precision import Precision
from functional_nn.training.recipe import NOT_FOR_FUNCTIONS, HyperparameterReader, ModelFunction, network_of


@dataclass(frozen=True, eq=False)
class Member:
    """One trained model of a sweep.

    Args:
        number: its place in the grid, from 0.
        hyperparameters: its values in the grid, with the seed.
        status: ``"finished"``; ``"non-finite"``, and its last finite state is kept; ``"stopped early"``; ``"halved"``,
            left out by successive halving; or ``"not run"``, because the sweep was interrupted before its end.
        bad_step: for a non-finite member, the first step of the run, from 0, whose result was not finite.
            ``find_non_finite`` finds the operation that made it.
        curves: metrics by name, such as ``train_loss``, ``test_loss`` and ``test_accuracy``; each is an array with one
            number for each epoch. If the data have validation examples, these take the place of the test examples.
        seconds: the time of its training, without evaluation. If members were trained at once, each has an equal share
            of the time.
        params, state: pytrees of NumPy arrays; None if they were not kept.
        test_metrics: the metrics on the test examples at the member's end, if choices are made on validation examples.
    """

    number: int
    hyperparameters: Mapping[str, PlainValue]
    status: str
    bad_step: int | None
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    params: Params | None = None
    state: State | None = None
    test_metrics: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        given = ", ".join(f"{name} {value}" for name, value in self.hyperparameters.items())
        metrics = {name: self.last(name) for name in self.curves} | dict(self.test_metrics)
        numbers = "".join(f", {words(name)} {value:.4f}" for name, value in metrics.items())
        return escaped(f"Member({self.number}: {given}; {self.status} after epoch {self.epochs}{numbers})")

    @property
    def epochs(self) -> int:
        """The number of epochs that it was trained for."""
        return len(next(iter(self.curves.values()), ()))

    @property
    def has_result(self) -> bool:
        """Whether its last metrics are those of a trained model: it is neither non-finite nor interrupted."""
        return self.status not in ("non-finite", "not run")

    @property
    def is_trained_to_its_end(self) -> bool:
        """Whether it has a result, and was not left out by successive halving."""
        return self.has_result and self.status != "halved"

    def last(self, metric: str) -> float:
        """A metric after the last epoch; NaN if no epoch was run, or if there is no such metric."""
        curve = self.curves.get(metric)
        return math.nan if curve is None or not len(curve) else float(curve[-1])


def has_number(member: Member, metric: str) -> bool:
    """Whether a member ended with a finite metric. Only such members can win, and count in statistics.

    A member that successive halving left out can win only if no other can.
    """
    return member.has_result and math.isfinite(member.last(metric))


def metric_names(members: Iterable[Member]) -> tuple[str, ...]:
    """The names of the metrics that members have after each epoch."""
    return tuple(dict.fromkeys(name for member in members for name in member.curves))


def chosen_metric(result: SweepResult, metric: str | None) -> str:
    """The name of a metric of the result; for None, that of the metric by which models are compared.

    Raises:
        InputError: if the result has no such metric.
    """
    names = metric_names(result.members)
    if metric is None:
        return default_metric(names)
    if not names:  # no member has run an epoch
        return metric
    is_of_test = isinstance(metric, str) and metric.startswith("test_") and metric not in names
    if is_of_test and default_metric(names).startswith("validation_"):
        remedy = "The test examples are not used for choices. Member.test_metrics has their numbers."
        raise InputError("metric", f"one of {shortened(', '.join(names))}", shown(metric), remedy)
    return check_choice("metric", metric, names)


def check_result(result: object) -> None:
    """Raises an InputError unless this is the result of a sweep."""
    check("result", result, "the result of sweep", isinstance(result, SweepResult))


# Statistics

CONFIDENCE = 0.95
Deviation = TypeVar("Deviation", float, np.ndarray)


class Setting(NamedTuple):
    """One setting of the hyper-parameters, summarized over its seeds.

    Args:
        hyperparameters: the hyper-parameters that the members share.
        models: the number of members in the mean.
        mean, deviation: the mean of the metric, and its standard deviation (with n - 1).
        low, high: the 95% confidence interval of the mean, by Student's t; NaN for a single member.
        not_finite: the number of members left out because they, or their metric, are not finite.
        epochs: the smallest and the largest number of epochs of the members in the mean; 0 if there are none.
        not_run: the number of members left out because the sweep was interrupted before their end.
    """

    hyperparameters: Mapping[str, PlainValue]
    models: int
    mean: float
    deviation: float
    low: float
    high: float
    not_finite: int
    epochs: tuple[int, int] = (0, 0)
    not_run: int = 0

    @property
    def half_width(self) -> float:
        """Half of the width of the confidence interval."""
        return (self.high - self.low) / 2

    @property
    def left_out(self) -> str:
        """How many members the mean leaves out, and why, such as ``1 not finite, 2 not run``; empty for none."""
        counts = {"not finite": self.not_finite, "not run": self.not_run}
        return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)


def summarize(result: SweepResult, metric: str | None = None, *, over: str | Sequence[str] = "seed") -> list[Setting]:
    """The mean of each setting over its seeds, or over other hyper-parameters, with a 95% confidence interval.

    Math:
        m = Σ xᵢ / n, s² = Σ (xᵢ - m)² / (n - 1), and the interval m ± t s / √n, where t is the quantile of Student's
        distribution with n - 1 degrees of freedom

    Args:
        result: the result of a sweep.
        metric: a name such as ``test_loss``, after the last epoch; None for ``SweepResult.metric``.
        over: the hyper-parameters over which the mean is taken.

    Raises:
        InputError: for an unknown metric or an unknown hyper-parameter.

    >>> import functional_nn as fnn, optax
    >>> members = fnn.grid(learning_rate=[1e-3, 1e-2], seed=range(3))
    >>> result = fnn.sweep(
    ...     fnn.dense(10), lambda h: optax.adam(h["learning_rate"]), members, fnn.load_dataset("mnist5k"), epochs=1)
    >>> [(row.hyperparameters["learning_rate"], row.models) for row in fnn.sweeps.summarize(result)]
    [(0.001, 3), (0.01, 3)]
    """
    check_result(result)
    metric = chosen_metric(result, metric)
    if not isinstance(over, Sequence) or not all(isinstance(name, str) for name in over):
        raise InputError("over", "names of hyper-parameters", repr(over))
    over = (over,) if isinstance(over, str) else tuple(over)
    known = result.members[0].hyperparameters if result.members else over
    unknown = [name for name in over if name not in known and name != "seed"]
    if unknown:
        raise InputError("over", "hyper-parameters of the sweep", ", ".join(unknown), suggest(unknown[0], known))
    return [row for row, _ in settings_of(result, metric, over)]


def settings_of(
    result: SweepResult, metric: str, over: Sequence[str] = ("seed",)
) -> list[tuple[Setting, list[Member]]]:
    """The settings, averaged over some hyper-parameters, each with its members; in the order of the grid."""
    shared: dict[tuple[tuple[str, PlainValue], ...], list[Member]] = {}
    for member in result.members:
        rest = tuple((name, value) for name, value in member.hyperparameters.items() if name not in over)
        shared.setdefault(rest, []).append(member)
    return [(_setting(dict(rest), members, metric), members) for rest, members in shared.items()]


def ranked_settings(
    result: SweepResult, metric: str, over: Sequence[str] = ("seed",)
) -> list[tuple[Setting, list[Member]]]:
    """The same, the best first. Those without a mean are last."""
    return sorted(settings_of(result, metric, over), key=lambda pair: rank_of(metric, pair[0].mean))


def _setting(hyperparameters: Mapping[str, PlainValue], members: Sequence[Member], metric: str) -> Setting:
    """The statistics of a metric over some members."""
    counted = [member for member in members if has_number(member, metric)]
    values = np.array([member.last(metric) for member in counted])
    epochs = [member.epochs for member in counted]
    not_run = sum(member.status == "not run" for member in members)
    mean = float(values.mean()) if counted else math.nan
    deviation = float(values.std(ddof=1)) if len(counted) > 1 else math.nan
    half = half_width(deviation, len(counted))
    return Setting(
        hyperparameters,
        models=len(counted),
        mean=mean,
        deviation=deviation,
        low=mean - half,
        high=mean + half,
        not_finite=len(members) - len(counted) - not_run,
        epochs=(min(epochs, default=0), max(epochs, default=0)),
        not_run=not_run,
    )


def half_width(deviation: Deviation, count: int) -> Deviation | float:
    """Half of the width of the 95% confidence interval of a mean, t s / √n; NaN for fewer than two values."""
    from scipy import stats

    if count < 2:
        return math.nan
    # The interval leaves out 2.5% at each end, so its quantile is 97.5%.
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) / math.sqrt(count) * deviation


# Columns of tables


class Column(NamedTuple):
    """A column: its value for a member in rows, its text for a setting in tables of settings, or both.

    Args:
        name: its name in rows, CSV and JSON. That of a measured time begins with ``seconds``.
        of_member: its value for a member; None if rows do not have it.
        of_setting: its text for a setting and the members of this setting; None if tables of settings do not have it.
        head: its name in tables for people; by default ``name``.
        is_shown: whether tables for people have it. Rows have it always.
    """

    name: str
    of_member: Callable[[Member], PlainValue] | None = None
    of_setting: Callable[[Setting, Sequence[Member]], str] | None = None
    head: str = ""
    is_shown: bool = True

    @property
    def title(self) -> str:
        """Its name in tables for people."""
        return self.head or self.name


def columns(members: Sequence[Member]) -> list[Column]:
    """All columns, in their order. A new column is added here."""
    metrics = metric_names(members)
    metric = default_metric(metrics)
    varied = varied_names(members)
    statuses = {member.status for member in members}
    epochs = {member.epochs for member in members if has_number(member, metric)}
    return [
        Column("number", lambda member: member.number, head="model"),
        *(_hyperparameter(name, name in varied) for name in (members[0].hyperparameters if members else ())),
        Column("status", lambda member: member.status, is_shown=statuses != {"finished"}),
        Column(
            "bad_step",
            lambda member: member.bad_step,
            head="bad step",
            is_shown=any(member.bad_step is not None for member in members),
        ),
        Column(
            "epochs_run",
            lambda member: member.epochs,
            lambda row, _: "–".join(map(str, dict.fromkeys(row.epochs))),
            head="epochs",
            is_shown=len(epochs) > 1,
        ),
        Column("models", of_setting=lambda row, _: str(row.models)),
        *(_metric(name, name in metrics, name == metric) for name in metrics[::-1] or (metric,)),
        Column("± 95%", of_setting=lambda row, _: _in_four_digits(row.half_width)),
        Column(
            "seconds_per_epoch",
            lambda member: _seconds_per_epoch([member]),
            lambda _, of_setting: _in_four_digits(_seconds_per_epoch(of_setting)),
            head="seconds per epoch",
            is_shown=any(member.seconds for member in members),
        ),
        Column("not finite", of_setting=lambda row, _: str(row.not_finite or "")),
        Column("not run", of_setting=lambda row, _: str(row.not_run or ""), is_shown="not run" in statuses),
    ]


def of_members(members: Sequence[Member]) -> list[tuple[Column, Callable[[Member], PlainValue]]]:
    """The columns of rows, each with its value for a member."""
    return [(column, column.of_member) for column in columns(members) if column.of_member is not None]


def varied_names(members: Sequence[Member]) -> tuple[str, ...]:
    """The hyper-parameters that differ between members, the seed last."""
    given = [member.hyperparameters for member in members]
    names = [name for name in given[0] if len({member[name] for member in given}) > 1] if given else []
    return tuple(sorted(names, key=lambda name: name == "seed"))


def check_names(names: Iterable[str], metrics: Iterable[str] = ()) -> None:
    """Raises an InputError if a hyper-parameter has the name of another column of the rows.

    Args:
        names: those of the hyper-parameters.
        metrics: the names of the metrics, if they are known. Those of losses and accuracies are always taken.
    """
    usual = (f"{part}_{metric}" for part in ("train", "validation", "test") for metric in ("loss", "accuracy"))
    fixed = (column.name for column, _ in of_members(()))
    taken = sorted(set(names) & {*fixed, *usual, *metrics})
    if taken:
        raise InputError("grid", "names that the columns of the result do not have", ", ".join(taken), "Rename them.")


def shown_value(value: object) -> str:
    """A value as tables and pictures show it."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)


def _hyperparameter(name: str, is_varied: bool) -> Column:
    """The column of a hyper-parameter. Settings are averaged over seeds."""
    in_settings = None if name == "seed" else lambda row, _: shown_value(row.hyperparameters[name])
    return Column(name, lambda member: member.hyperparameters[name], in_settings, is_shown=is_varied)


def _metric(name: str, is_in_rows: bool, is_compared: bool) -> Column:
    """The column of a metric. Settings have that by which they are compared, also if no member has run an epoch."""
    in_rows = (lambda member: member.last(name)) if is_in_rows else None
    in_settings = (lambda row, _: _in_four_digits(row.mean)) if is_compared else None
    return Column(name, in_rows, in_settings, head=words(name))


def _seconds_per_epoch(members: Sequence[Member]) -> float:
    """The mean time of an epoch of these members; NaN if no epoch was run."""
    epochs = sum(member.epochs for member in members)
    return sum(member.seconds for member in members) / epochs if epochs else math.nan


def _in_four_digits(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.4f}"


# The result

FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are full-width signs
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class SweepResult:
    """All members of a sweep, in the order of the grid, and how the sweep was run.

    Args:
        members: one ``Member`` for each row of the grid.
        model: the ``model`` given to ``sweep``.
        precision: the ``precision`` given to ``sweep``.
        in_shape: the shape of one example as the networks took it.
        plan: how the sweep was run.
        compilations: how many times a static group was compiled: once for each device, and again for each smaller plan
            if memory had no room. Programs that were already compiled in this process do not count.
        seconds: ``compile``, ``train`` and ``total``.
        message: why members were not run; empty if all were run.
        restored: the numbers of the members that an earlier call had trained; they were read from ``out``.

    Raises:
        InputError: if a hyper-parameter has the name of another column of the rows.

    >>> import functional_nn as fnn, numpy as np
    >>> curve = np.array([0.5, 0.9])
    >>> members = [
    ...     fnn.sweeps.Member(i, {"learning_rate": rate, "seed": 0}, "finished", None, {"test_accuracy": curve - rate})
    ...     for i, rate in enumerate((0.1, 0.01))]
    >>> print(fnn.sweeps.SweepResult(tuple(members), lambda h: None, "float32", (784,)))
    learning_rate  models  test accuracy  ± 95%  not finite
             0.01       1         0.8900
              0.1       1         0.8000
    best: member 1 (learning_rate 0.01), test accuracy 0.8900 (chosen on test data)
    2 finished
    """

    members: tuple[Member, ...]
    model: ModelFunction
    precision: str | Precision
    in_shape: Shapes
    plan: Mapping[str, object] = field(default_factory=dict)
    compilations: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    restored: tuple[int, ...] = ()

    def __post_init__(self):
        if self.members:
            check_names(self.members[0].hyperparameters, metric_names(self.members))

    def rows(self) -> list[dict[str, PlainValue]]:
        """The table of the members: a flat dict for each."""
        table = of_members(self.members)
        return [{column.name: value(member) for column, value in table} for member in self.members]

    def curves(self, metric: str | None = None) -> np.ndarray:
        """A metric after each epoch, (members, epochs); NaN for epochs that a member did not run.

        Args:
            metric: its name, such as ``test_loss``; None for ``metric``, by which models are compared.
        """
        chosen = chosen_metric(self, metric)
        curves = [member.curves.get(chosen, np.zeros(0)) for member in self.members]
        table = np.full((len(curves), max(map(len, curves), default=0)), np.nan)
        for row, curve in zip(table, curves, strict=True):
            row[: len(curve)] = curve
        return table

    @property
    def varied(self) -> tuple[str, ...]:
        """The hyper-parameters that differ between members, the seed last."""
        return varied_names(self.members)

    @property
    def metric(self) -> str:
        """The metric by which models are compared: the accuracy if there is one, otherwise the loss.

        It is that of the validation examples if there are any, otherwise that of the test examples.
        """
        return chosen_metric(self, None)

    def ranked(self, metric: str | None = None) -> list[Member]:
        """The members, the best first.

        Members that successive halving left out come after those that were trained to their end. Members that are not
        finite or were interrupted are last.

        Args:
            metric: a name such as ``test_loss``; None for ``metric``. If the name ends in ``loss``, ``error``, ``mae``,
                ``mse``, ``rmse``, ``brier_score`` or ``perplexity``, the smallest number is the best one, otherwise the
                largest.
        """
        chosen = chosen_metric(self, metric)

        def place(member: Member) -> tuple[bool, bool, float]:
            order = rank_of(chosen, member.last(chosen))
            return not has_number(member, chosen), not member.is_trained_to_its_end, order

        return sorted(self.members, key=place)

    def best(self, metric: str | None = None) -> Member:
        """The member with the largest accuracy, or the smallest loss. Of equal ones, it is the first.

        It was trained to its end, if any member with a finite number was.

        Args:
            metric: as for ``ranked``.

        Raises:
            InputError: if no member ended with a finite number.
        """
        ranked, chosen = self.ranked(metric), chosen_metric(self, metric)
        if not ranked or not has_number(ranked[0], chosen):
            given = _statuses(self.members)
            remedy = self.message or "Try smaller learning rates."
            raise InputError("members", f"one with a finite {shortened(chosen)}", given, remedy)
        return ranked[0]

    def where(self, **hyperparameters: object) -> SweepResult:
        """The result with the members that have these values only, and without ``seconds``.

        Raises:
            InputError: for an unknown name, or values that no member has.
        """
        known = self.members[0].hyperparameters if self.members else {}
        for name in hyperparameters:
            if name not in known:
                raise InputError("where", "a hyper-parameter of the sweep", repr(name), suggest(name, known))
            value = hyperparameters[name]
            is_one = not is_array(value) or (value.ndim == 0 and is_numeric(value))
            check(f"where.{name}", value, "one value", is_one)
        wanted = {name: tuple(value) if isinstance(value, list) else value for name, value in hyperparameters.items()}

        def has_wanted(member: Member) -> bool:
            return all(member.hyperparameters[name] == value for name, value in wanted.items())

        chosen = tuple(member for member in self.members if has_wanted(member))
        if not chosen:
            given = ", ".join(f"{name}={value!r}" for name, value in hyperparameters.items())
            raise InputError("where", "values that a member has", given)
        return replace(self, members=chosen, seconds={}, restored=())

    def network(self, member: Member) -> Layer:
        """The network of a member. Its parameters and state are ``member.params`` and ``member.state``."""
        check("member", member, "a Member of this result", isinstance(member, Member), "Write result.best().")
        # The counts do not matter for a network.
        counts = {"epochs": max(1, member.epochs), "batch_size": 1, "steps": 1}
        values = {name: value for name, value in member.hyperparameters.items() if name not in NOT_FOR_FUNCTIONS}
        return network_of(self.model, HyperparameterReader(counts | values))

    def save(self, path: str | Path) -> None:
        """Writes the rows to a file. The suffix says how: ``.csv``, ``.jsonl`` or ``.json``.

        The file is never half written. In JSON, numbers that are not finite are null.

        Raises:
            InputError: for another suffix.
        """
        path = check_path("path", path)
        rows = finite_json(self.rows())
        names = [column.name for column, _ in of_members(self.members)]
        writers: dict[str, Callable[[], str]] = {
            ".csv": lambda: "".join(map(_csv_line, [names, *(row.values() for row in self.rows())])),
            ".jsonl": lambda: "".join(json.dumps(row) + "\n" for row in rows),
            ".json": lambda: json.dumps(rows, indent=2) + "\n",
        }
        if path.suffix not in writers:
            raise InputError("path", f"a name that ends with {', '.join(writers)}", str(path))
        write_whole(path, writers[path.suffix]())

    def to_dict(self) -> dict[str, object]:
        """The result for JSON, as ``functional-nn sweep --json`` writes it."""
        restored = set(self.restored)
        epochs = sum(member.epochs for member in self.members if member.number not in restored)
        seconds_train = self.seconds.get("train")
        per_model_epoch = None if seconds_train is None or epochs == 0 else seconds_train / epochs
        return {
            "members": self.rows(),
            "compilations": self.compilations,
            "plan": dict(self.plan),
            "restored_members": len(self.restored),
            "seconds": self.seconds.get("total"),
            "seconds_compile": self.seconds.get("compile"),
            "seconds_train": seconds_train,
            "seconds_per_model_epoch": per_model_epoch,
            "message": self.message,
        }

    def __str__(self) -> str:
        # A grid from a file or a folder can have names and values with control characters.
        return "\n".join(map(escaped, (*settings_table(self), *sentences(self))))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        (heads, *rows), _ = settings_cells(self)
        return html_table(". ".join(sentences(self)), heads, rows)


def sentences(result: SweepResult) -> list[str]:
    """The lines below the table: the best member, how many members ended how, and the message."""
    lines, metric = [], result.metric  # it is found from all members
    try:
        best = result.best()
        values = ", ".join(f"{name} {shown_value(best.hyperparameters[name])}" for name in result.varied)
        about = f" ({values})" if values else ""
        others = [name for name in best.curves if name.startswith(("test_", "validation_")) and name != metric]
        shown_metrics = [metric, *(name for name in others if not name.endswith("_loss"))]
        numbers = {name: best.last(name) for name in shown_metrics} | dict(best.test_metrics)
        texts = ", ".join(f"{words(name)} {value:.4f}" for name, value in numbers.items())
        on_test = " (chosen on test data)" if metric.startswith("test_") else ""
        value = best.last(metric)
        equal = sum(member.is_trained_to_its_end and member.last(metric) == value for member in result.members)
        ties = f"; the first of {equal} equal ones" if equal > 1 else ""
        lines.append(f"best: member {best.number}{about}, {texts}{on_test}{ties}")
    except InputError:
        lines.append("best: none ended with a finite number")
    statuses = _statuses(result.members)
    if "total" in result.seconds:
        has_run = sum(member.status != "not run" for member in result.members)
        statuses += _time(result, has_run - len(result.restored))
    lines.append(statuses)
    if result.message:
        lines.append(result.message)
    return lines


MOST_ROWS = 20
"""The largest number of settings in the table."""


def settings_table(result: SweepResult) -> list[str]:
    """The lines of the table."""
    cells, left_out = settings_cells(result)
    lines = aligned(cells, numbers_from=0)
    if left_out:
        lines.append(f"… and {left_out} more")
    return lines


def settings_cells(result: SweepResult) -> tuple[list[list[str]], int]:
    """The cells of the table, with the heads first, and the number of settings that are left out."""
    table = [(column.title, column.of_setting) for column in columns(result.members) if column.is_shown]
    texts = [(head, text) for head, text in table if text is not None]
    settings = ranked_settings(result, chosen_metric(result, None))
    rows = [[text(row, members) for _, text in texts] for row, members in settings[:MOST_ROWS]]
    return [[head for head, _ in texts], *rows], len(settings) - len(rows)


def _statuses(members: Sequence[Member]) -> str:
    """How many members ended how, in words."""
    counts = Counter(member.status for member in members)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "no members"


def _csv_line(values: Iterable[object]) -> str:
    # Before Python 3.13 the writer quotes "\r" and "\n" only if they are in its line terminator.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(map(_csv_cell, values))
    return text.getvalue().removesuffix("\r\n") + "\n"


def _csv_cell(value: object) -> object:
    """A value for CSV. If a spreadsheet would run a string as a formula, it gets an apostrophe in front."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _time(result: SweepResult, trained: int) -> str:
    """How long this call took for the members that it trained itself. Those of earlier calls do not count."""
    earlier = len(result.restored)
    if earlier and not trained:
        return f": {earlier} in an earlier call"
    seconds = result.seconds["total"]
    taken = f"in {seconds:.1f} s ({trained / seconds:.2f} models a second; {result.plan.get('name', '')})"
    return f": {earlier} in an earlier call, {trained} {taken}" if earlier else f" {taken}"
