"""What a sweep came to: a row for each member, curves as arrays, and where to look first."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from functional_nn.errors import InputError, suggest
from functional_nn.files import finite_json, write_whole
from functional_nn.inputs import Shape
from functional_nn.layer import Layer
from functional_nn.sweeps.groups import Model, RecipeOf
from functional_nn.sweeps.statistics import Summary, summary_rows
from functional_nn.training.precision import Precision

METRICS = ("test_accuracy", "test_loss", "train_loss")
COLUMNS = ("number", "status", "bad_step", "epochs_run", *METRICS)
MOST_ROWS = 20
"""Rows of the printed table."""


@dataclass(frozen=True, eq=False)
class Member:
    """One model of a sweep.

    Args:
        number: its place in the grid, from 0.
        hyperparameters: as the grid gave them, its seed among them.
        status: ``"finished"``; ``"non-finite"``, with its last finite state kept; ``"stopped early"``; ``"halved"``,
            left out by successive halving; ``"not run"`` to its end, since the sweep was interrupted.
        bad_step: of a non-finite member the step of the run, from 0, that would have made it so.
        train_loss, test_loss, test_accuracy: one number for each epoch that it ran.
        params, state: NumPy arrays; None where they were not kept.
    """

    number: int
    hyperparameters: Mapping[str, Any]
    status: str
    bad_step: int | None
    train_loss: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    params: Any = None
    state: Any = None

    def last(self, metric: str) -> float:
        """A metric after the last epoch; NaN where none was run."""
        curve = getattr(self, check_metric(metric))
        return float(curve[-1]) if len(curve) else math.nan

    def row(self) -> dict[str, Any]:
        """One flat dict: number, hyper-parameters, status, epochs, and the metrics after the last epoch."""
        metrics = {metric: self.last(metric) for metric in METRICS}
        about = {"status": self.status, "bad_step": self.bad_step, "epochs_run": len(self.test_loss)}
        return {"number": self.number, **self.hyperparameters, **about, **metrics}


@dataclass(frozen=True, eq=False)
class SweepResult:
    """All members of a sweep, in the grid's order, and how it was run.

    Args:
        members: one ``Member`` for each row of the grid.
        model: as ``sweep`` got it.
        precision: what was trained in.
        in_shape: the shape of one example as the networks were given it.
        plan: how it was run, with the bytes it was estimated to need.
        compilations: how many static groups were compiled for it.
        seconds: ``compile``, ``train`` and ``total``.
        message: why something was not run; empty where all was.
    """

    members: tuple[Member, ...]
    model: Model
    precision: str | Precision
    in_shape: Shape
    plan: Mapping[str, Any] = field(default_factory=dict)
    compilations: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    message: str = ""

    def __post_init__(self):
        if self.members and (taken := sorted(self.members[0].hyperparameters.keys() & set(COLUMNS))):
            raise InputError("grid", "names that are no columns of the result", ", ".join(taken), "Rename them.")

    def rows(self) -> list[dict[str, Any]]:
        """The table: a flat dict for each member."""
        return [member.row() for member in self.members]

    def curves(self, metric: str) -> np.ndarray:
        """(members, epochs), NaN where a member ran no further."""
        curves = [getattr(member, check_metric(metric)) for member in self.members]
        table = np.full((len(curves), max(map(len, curves), default=0)), np.nan)
        for row, curve in zip(table, curves, strict=True):
            row[: len(curve)] = curve
        return table

    @property
    def varied(self) -> tuple[str, ...]:
        """The hyper-parameters that differ between members, the seed last."""
        given = [member.hyperparameters for member in self.members]
        names = [name for name in given[0] if len({member[name] for member in given}) > 1] if given else []
        return tuple(sorted(names, key=lambda name: name == "seed"))

    def ranked(self, metric: str = "test_accuracy") -> list[Member]:
        """The members with the best first. What is not finite, or no number, cannot win and stands at the end."""
        sign = -1 if check_metric(metric) == "test_accuracy" else 1

        def place(member: Member) -> tuple[bool, float]:
            value = member.last(metric)
            out = member.status in ("non-finite", "not run") or math.isnan(value)
            return out, 0.0 if math.isnan(value) else sign * value

        return sorted(self.members, key=place)

    def best(self, metric: str = "test_accuracy") -> Member:
        """The member with the largest accuracy, or the smallest loss; of equal ones the first.

        Raises:
            InputError: where no member ended with a finite number.
        """
        ranked = self.ranked(metric)
        if not ranked or ranked[0].status in ("non-finite", "not run") or math.isnan(ranked[0].last(metric)):
            counts = Counter(member.status for member in self.members)
            given = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
            raise InputError("members", f"one with a finite {metric}", given, "Try smaller learning rates.")
        return ranked[0]

    def where(self, **hyperparameters: Any) -> SweepResult:
        """The members that have these values.

        Raises:
            InputError: for an unknown name, or values that no member has.
        """
        known = self.members[0].hyperparameters if self.members else {}
        for name in hyperparameters:
            if name not in known:
                raise InputError("where", "a hyper-parameter of the sweep", repr(name), suggest(name, known))
        chosen = tuple(m for m in self.members if all(m.hyperparameters[n] == v for n, v in hyperparameters.items()))
        if not chosen:
            given = ", ".join(f"{name}={value!r}" for name, value in hyperparameters.items())
            raise InputError("where", "values that a member has", given)
        return replace(self, members=chosen)

    def network(self, member: Member) -> Layer:
        """A member's network, for its ``params`` and ``state``."""
        counts = {"epochs": len(member.test_loss), "batch_size": 1, "steps": 1}
        return RecipeOf(self.model, None, None, None).network(counts | dict(member.hyperparameters))  # pyright: ignore

    def to_pandas(self) -> Any:
        """The rows as a pandas ``DataFrame``.

        Raises:
            InputError: where pandas is missing.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            remedy = "pip install 'functional-nn[sweeps]'"
            raise InputError("to_pandas", "pandas to be installed", "it missing", remedy) from None
        return pandas.DataFrame(self.rows())

    def save(self, path: str | Path) -> None:
        """Writes the rows whole or not at all, as the suffix says: ``.csv``, ``.jsonl``, ``.json`` or ``.parquet``.

        In JSON what is not finite is null. Parquet takes pandas and pyarrow.
        """
        path = Path(path)
        writers = {".csv": self._csv, ".jsonl": self._json_lines, ".json": self._json, ".parquet": self._parquet}
        if path.suffix not in writers:
            raise InputError("path", f"a name that ends with {', '.join(writers)}", str(path))
        write_whole(path, writers[path.suffix]())

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON, as ``functional-nn sweep --json`` writes it."""
        epochs = sum(len(member.test_loss) for member in self.members)
        return {
            "members": self.rows(),
            "compilations": self.compilations,
            "plan": dict(self.plan),
            "seconds": self.seconds.get("total"),
            "seconds_compile": self.seconds.get("compile"),
            "seconds_train": self.seconds.get("train"),
            "seconds_per_model_epoch": self.seconds["train"] / epochs if epochs and "train" in self.seconds else None,
            "message": self.message,
        }

    def __str__(self) -> str:
        return "\n".join((*_table(self), *_sentences(self)))

    def _csv(self) -> str:
        text = io.StringIO()
        rows = self.rows()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _json_lines(self) -> str:
        return "".join(json.dumps(finite_json(row)) + "\n" for row in self.rows())

    def _json(self) -> str:
        return json.dumps(finite_json(self.rows()), indent=2) + "\n"

    def _parquet(self) -> bytes:
        frame = self.to_pandas()
        tuples = [name for name in frame if frame[name].map(lambda value: isinstance(value, tuple)).any()]
        try:
            return frame.assign(**{name: frame[name].map(str) for name in tuples}).to_parquet(None, index=False)
        except ImportError:
            remedy = "pip install 'functional-nn[sweeps]'"
            raise InputError("path", "pyarrow to be installed for .parquet", "it missing", remedy) from None


def check_metric(metric: str) -> str:
    """A metric's name, or an error with the nearest one."""
    if metric not in METRICS:
        raise InputError("metric", "a known name", repr(metric), suggest(str(metric), METRICS))
    return metric


def _table(result: SweepResult) -> list[str]:
    """One line for each configuration, its seeds together, the best first."""
    summaries = sorted(summary_rows(result, "test_accuracy"), key=_worst_last)
    names = [name for name in result.varied if name != "seed"]
    shown = summaries[:MOST_ROWS]
    cells = [[*names, "models", "test accuracy", "± 95%", "not finite"]]
    for row in shown:
        spread = "" if math.isnan(row.half_width) else f"{row.half_width:.4f}"
        mean = "" if math.isnan(row.mean) else f"{row.mean:.4f}"
        values = [_shown(row.hyperparameters[name]) for name in names]
        cells.append([*values, str(row.models), mean, spread, str(row.not_finite or "")])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in cells]
    left_out = len(summaries) - len(shown)
    return lines + ([f"… and {left_out} more"] if left_out else [])


def _sentences(result: SweepResult) -> list[str]:
    counts = Counter(member.status for member in result.members)
    lines = []
    try:
        best = result.best()
        about = ", ".join(f"{name} {_shown(best.hyperparameters[name])}" for name in result.varied)
        lines.append(f"best: member {best.number}{f' ({about})' if about else ''}, {best.last('test_accuracy'):.4f}")
    except InputError:
        lines.append("best: none ended with a finite number")
    statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
    if "total" in result.seconds:
        rate = len(result.members) / result.seconds["total"]
        statuses += f" in {result.seconds['total']:.1f} s ({rate:.2f} models a second; {result.plan.get('name', '')})"
    return [*lines, statuses, *([result.message] if result.message else [])]


def _worst_last(row: Summary) -> tuple[bool, float]:
    return math.isnan(row.mean), 0.0 if math.isnan(row.mean) else -row.mean


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
