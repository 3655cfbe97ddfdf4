"""The results of a sweep: members, tables and choices."""

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

import numpy as np

from functional_nn.core.display import html_table
from functional_nn.core.errors import InputError, check, escaped
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shapes
from functional_nn.core.texts import aligned, suggest, words
from functional_nn.core.validation import is_array, is_numeric
from functional_nn.storage.files import check_path, finite_json, write_whole
from functional_nn.sweeps.columns import check_names, columns, of_members, shown_value, varied_names
from functional_nn.sweeps.grid import PlainValue
from functional_nn.sweeps.member import HasMembers, Member, chosen_metric, has_number, metric_names
from functional_nn.sweeps.statistics import ranked_settings
from functional_nn.training.evaluate import larger_is_better
from functional_nn.training.precision import Precision
from functional_nn.training.recipe import NOT_FOR_FUNCTIONS, HyperparameterReader, ModelFunction, network_of

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
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

    >>> curve = np.array([0.5, 0.9])
    >>> members = [
    ...     Member(i, {"learning_rate": rate, "seed": 0}, "finished", None, {"test_accuracy": curve - rate})
    ...     for i, rate in enumerate((0.1, 0.01))]
    >>> print(SweepResult(tuple(members), lambda h: None, "float32", (784,)))
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
        sign = -1 if larger_is_better(chosen) else 1

        def place(member: Member) -> tuple[bool, bool, float]:
            value = member.last(chosen)
            order = math.inf if math.isnan(value) else sign * value
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
            raise InputError("members", f"one with a finite {chosen}", given, "Try smaller learning rates.")
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
        return network_of(self.model, reader_of(member))

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


def reader_of(member: Member) -> HyperparameterReader:
    """The hyper-parameters of a member, to make its network. The counts do not matter for a network."""
    counts = {"epochs": max(1, member.epochs), "batch_size": 1, "steps": 1}
    values = {name: value for name, value in member.hyperparameters.items() if name not in NOT_FOR_FUNCTIONS}
    return HyperparameterReader(counts | values)


def sentences(result: SweepResult) -> list[str]:
    """The lines below the table: the best member, how many members ended how, and the message."""
    lines = []
    try:
        best = result.best()
        values = ", ".join(f"{name} {shown_value(best.hyperparameters[name])}" for name in result.varied)
        about = f" ({values})" if values else ""
        others = [name for name in best.curves if name.startswith(("test_", "validation_")) and name != result.metric]
        shown_metrics = [result.metric, *(name for name in others if not name.endswith("_loss"))]
        numbers = {name: best.last(name) for name in shown_metrics} | dict(best.test_metrics)
        texts = ", ".join(f"{words(name)} {value:.4f}" for name, value in numbers.items())
        on_test = " (chosen on test data)" if result.metric.startswith("test_") else ""
        lines.append(f"best: member {best.number}{about}, {texts}{on_test}")
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


def settings_table(result: HasMembers) -> list[str]:
    """The lines of the table."""
    cells, left_out = settings_cells(result)
    lines = aligned(cells, numbers_from=0)
    if left_out:
        lines.append(f"… and {left_out} more")
    return lines


def settings_cells(result: HasMembers) -> tuple[list[list[str]], int]:
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
