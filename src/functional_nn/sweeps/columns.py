"""The columns of a sweep's tables. One table makes rows, CSV, the printed table, the page and the notebook."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from functional_nn.core.errors import InputError
from functional_nn.core.texts import words
from functional_nn.sweeps.grid import PlainValue
from functional_nn.sweeps.member import Member, has_number, metric_names
from functional_nn.sweeps.statistics import Setting
from functional_nn.training.evaluate import default_metric


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


def _in_four_digits(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.4f}"
