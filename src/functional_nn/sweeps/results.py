"""The results of a sweep: members, tables, choices, and ensembles of members."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from functional_nn.core.display import html_table
from functional_nn.core.errors import FormulaMissing, InputError, escaped
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shape, Shapes
from functional_nn.core.texts import aligned, suggest, words
from functional_nn.core.validation import as_host_array, check_choice, is_array, is_numeric, shown
from functional_nn.storage.files import check_path, finite_json, write_whole
from functional_nn.sweeps.grid import PlainValue
from functional_nn.sweeps.member import (
    COLUMNS,
    HasMembers,
    Member,
    check_names,
    check_result,
    chosen_metric,
    has_number,
    metric_names,
)
from functional_nn.sweeps.static_groups import StaticValues, traced_names, with_types
from functional_nn.sweeps.statistics import Setting, summarize
from functional_nn.training.evaluate import larger_is_better
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.prediction import predict_probabilities
from functional_nn.training.recipe import (
    NOT_FOR_FUNCTIONS,
    HyperparameterReader,
    ModelFunction,
    network_of,
)

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
        plan: how the sweep was run, with its estimated memory.
        compilations: how many times a static group was compiled: once for each device, and again for each smaller plan
            if memory had no room. Programs that were already compiled in this process do not count.
        seconds: ``compile``, ``train`` and ``total``.
        message: why members were not run; empty if all were run.
        static: the ``static`` given to ``sweep``.
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
    static: tuple[str, ...] = ()
    restored: tuple[int, ...] = ()

    def __post_init__(self):
        if self.members:
            check_names(self.members[0].hyperparameters, metric_names(self.members))

    def rows(self) -> list[dict[str, PlainValue]]:
        """The table of the members: a flat dict for each."""
        metrics = metric_names(self.members)[::-1]
        return [member.row(metrics) for member in self.members]

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
        given = [member.hyperparameters for member in self.members]
        names = [name for name in given[0] if len({member[name] for member in given}) > 1] if given else []
        return tuple(sorted(names, key=lambda name: name == "seed"))

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
            counts = Counter(member.status for member in self.members)
            given = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no members"
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
            if is_array(value) and (value.ndim or not is_numeric(value)):
                raise InputError(f"where.{name}", "one value", shown(value))
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
        if not isinstance(member, Member):
            raise InputError("member", "a Member of this result", shown(member), "Write result.best().")
        return network_of(self.model, reader_of(member))

    def save(self, path: str | Path) -> None:
        """Writes the rows to a file. The suffix says how: ``.csv``, ``.jsonl`` or ``.json``.

        The file is never half written. In JSON, numbers that are not finite are null.

        Raises:
            InputError: for another suffix.
        """
        path = check_path("path", path)
        writers = {".csv": self._csv, ".jsonl": self._json_lines, ".json": self._json}
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

    @property
    def _columns(self) -> list[str]:
        return list(self.rows()[0]) if self.members else list(COLUMNS)

    def _csv(self) -> str:
        lines = [_csv_line(self._columns)]
        lines += [_csv_line(row.values()) for row in self.rows()]
        return "".join(lines)

    def _json_lines(self) -> str:
        return "".join(json.dumps(finite_json(row)) + "\n" for row in self.rows())

    def _json(self) -> str:
        return json.dumps(finite_json(self.rows()), indent=2) + "\n"


def reader_of(member: Member) -> HyperparameterReader:
    """The hyper-parameters of a member, to make its network. The counts do not matter for a network."""
    counts = {"epochs": max(1, member.epochs), "batch_size": 1, "steps": 1}
    values = {name: value for name, value in member.hyperparameters.items() if name not in NOT_FOR_FUNCTIONS}
    return HyperparameterReader(counts | values)


def sentences(result: SweepResult) -> list[str]:
    """The lines below the table: the best member, how many members ended how, and the message."""
    counts = Counter(member.status for member in result.members)
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
    statuses = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no members"
    if "total" in result.seconds:
        statuses += _time(result, len(result.members) - counts["not run"] - len(result.restored))
    lines.append(statuses)
    if result.message:
        lines.append(result.message)
    return lines


COMBINATIONS = ("average", "vote")
TRAINED = ("finished", "stopped early")


class EnsembleGain(NamedTuple):
    """The accuracy of an ensemble beside that of its members.

    Args:
        accuracy: that of the ensemble.
        mean, best: the mean and the largest accuracy of its members. The best member is chosen by the same labels, so
            its accuracy is too optimistic.
        members: the number of members.
    """

    accuracy: float
    mean: float
    best: float
    members: int

    @property
    def gain(self) -> float:
        """The gain over the mean of the members. Which member is best is known only with labels."""
        return self.accuracy - self.mean

    def __str__(self) -> str:
        return (
            f"{self.members} members together {self.accuracy:.4f}: {100 * self.gain:+.2f} points over their mean "
            f"{self.mean:.4f}, {100 * (self.accuracy - self.best):+.2f} over the best, {self.best:.4f}"
        )


def ensemble_probabilities(
    result: SweepResult, x: ArrayLike, *, members: Iterable[Member] | None = None, combine: str = "average"
) -> np.ndarray:
    """The class probabilities of several members together.

    Math:
        p = Σₘ pₘ / n; or, by vote, the share of the members that give the class their largest probability

    If two classes have the same number of votes, ``argmax`` takes the one with the smaller number. Members that differ
    only in parameters and traced numbers share a compiled program.

    Args:
        result: the result of a sweep with ``keep=True``.
        x: (examples, …); images are flattened if training flattened them.
        members: the members, such as ``result.ranked()[:5]``; by default all that are finished or stopped early.
        combine: ``"average"`` or ``"vote"``.

    Raises:
        InputError: if there is no such member, or if a given member is not finite or has no parameters.

    >>> import functional_nn as fnn, optax
    >>> data = fnn.load_dataset("mnist5k")
    >>> result = fnn.sweep(fnn.dense(10), optax.adam(1e-3), fnn.grid(seed=range(3)), data, epochs=1)
    >>> ensemble_probabilities(result, data.test_images[:5]).shape
    (5, 10)

    References:
        Hansen and Salamon 1990, "Neural network ensembles"; Lakshminarayanan, Pritzel and Blundell 2017, "Simple and
        scalable predictive uncertainty estimation using deep ensembles".
    """
    _check_combination(combine)
    chosen = _chosen(result, members)
    return _combined(_probabilities(result, chosen, x), len(chosen), combine)


def ensemble_gain(
    result: SweepResult,
    x: ArrayLike,
    labels: ArrayLike,
    *,
    members: Iterable[Member] | None = None,
    combine: str = "average",
) -> EnsembleGain:
    """The accuracy of an ensemble, compared with the accuracies of its members.

    Args:
        result, x, members, combine: as for ``ensemble_probabilities``.
        labels: the class of each example, (examples,).

    Raises:
        InputError: as ``ensemble_probabilities``, or for labels that do not fit.

    >>> EnsembleGain(accuracy=0.95, mean=0.93, best=0.94, members=8).gain.__round__(4)
    0.02
    """
    _check_combination(combine)
    chosen = _chosen(result, members)
    x, labels = as_host_array("x", x), as_host_array("labels", labels)
    if x.ndim < 2:
        raise InputError("x", "(examples, …)", shown(x))
    if labels.shape != (len(x),) or not np.issubdtype(labels.dtype, np.integer):
        given = f"{labels.dtype} of shape {labels.shape}"
        raise InputError("labels", f"one integer for each example, shape ({len(x)},)", given)
    accuracies: list[float] = []

    # The probabilities are read one member at a time, so those of all members are never in memory together.
    def with_accuracies() -> Iterator[np.ndarray]:
        for probabilities in _probabilities(result, chosen, x):
            accuracies.append(_accuracy(probabilities, labels))
            yield probabilities

    accuracy = _accuracy(_combined(with_accuracies(), len(chosen), combine), labels)
    return EnsembleGain(accuracy, float(np.mean(accuracies)), max(accuracies), len(chosen))


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


def _chosen(result: SweepResult, members: object) -> Sequence[Member]:
    check_result(result)
    if members is not None and (is_array(members) or not isinstance(members, Iterable)):
        raise InputError("members", "members of the result", shown(members), "Write result.ranked()[:5].")
    if members is None:
        chosen = [member for member in result.members if member.status in TRAINED and member.params is not None]
        given = f"none of {len(result.members)}"
    else:
        chosen = list(members)
        given = "none"
        for member in chosen:
            if not isinstance(member, Member):
                raise InputError("members", "members of the result", repr(member), "Write result.ranked()[:5].")
            if not member.has_result or member.params is None:
                reason = "without parameters" if member.has_result else member.status
                given = f"member {member.number}, {reason}"
                raise InputError("members", "trained members with parameters", given, "Leave it out.")
    if not chosen:
        remedy = "Call sweep with keep=True."
        raise InputError("members", "at least one trained member with parameters", given, remedy)
    return chosen


def _probabilities(result: SweepResult, members: Sequence[Member], x: ArrayLike) -> Iterator[np.ndarray]:
    """The class probabilities of each member. Members that share a program follow each other."""
    x = as_host_array("x", x)
    if x.ndim < 2 or math.prod(x.shape[1:]) != math.prod(result.in_shape):
        raise InputError("x", f"(examples, …) with examples of shape {result.in_shape}", f"shape {x.shape}")
    precision = as_precision(result.precision)
    traced = traced_names([member.hyperparameters for member in result.members], result.static)

    # Members share a program if the static hyper-parameters are equal that the model reads.
    sharing: dict[StaticValues, list[Member]] = {}
    for member in members:
        reader = reader_of(member)
        network_of(result.model, reader)
        fixed = with_types({name: reader[name] for name in reader.names_read if name not in traced})
        sharing.setdefault(fixed, []).append(member)
    for fixed, together in sharing.items():
        net = _common_network(result.model, fixed)
        examples = x.reshape(len(x), *_in_shape(result, together[0], x.shape[1:]))
        for member in together:
            numbers = {name: np.asarray(member.hyperparameters[name], precision.parameters) for name in traced}
            state = {"network": member.state, "hyperparameters": numbers}
            params = {} if member.params is None else member.params
            yield predict_probabilities(net, params, state, examples, precision=precision)


def _in_shape(result: SweepResult, member: Member, shape: Shape) -> Shape:
    """The shape of an example for which the member's network has parameters of these shapes.

    In one sweep, a convolution may have got images, and a dense layer flat vectors.
    """
    net = result.network(member)
    shapes = jax.tree.map(np.shape, member.params)
    for in_shape in (result.in_shape, shape, (math.prod(shape),)):
        try:
            params, _ = jax.eval_shape(lambda key, shape=in_shape: net.init(key, shape), jax.random.key(0))
        except (TypeError, ValueError):
            continue
        if jax.tree.map(np.shape, params) == shapes:
            return in_shape
    raise InputError("x", f"examples that the network of member {member.number} takes", f"examples of shape {shape}")


# The same values give the same network object, for which predict_probabilities has its compiled program already.
@lru_cache(maxsize=32)
def _common_network(model: ModelFunction, fixed: StaticValues) -> Layer:
    """One network for all members with these static values. The other hyper-parameters are in its state."""

    values = {name: value for name, _, value in fixed}

    def forward(params, state, x, *, train, key=None):
        net = network_of(model, values | state["hyperparameters"])
        y, _, residuals = net.forward(params, state["network"], x, train=train, key=key)
        return y, state, residuals

    def only_evaluates(*arguments):
        raise FormulaMissing("The common network of an ensemble can only be evaluated. Use result.network(member).")

    return Layer("ensemble", init=only_evaluates, forward=forward, backward=only_evaluates)


def _combined(each: Iterator[np.ndarray], count: int, combine: str) -> np.ndarray:
    def share(probabilities: np.ndarray) -> np.ndarray:
        if combine == "average":
            return probabilities.astype(np.float64)
        return (np.arange(probabilities.shape[-1]) == probabilities.argmax(axis=-1, keepdims=True)).astype(np.float64)

    return reduce(np.add, map(share, each)) / count


def _accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(probabilities.argmax(axis=-1) == labels))


def _check_combination(combine: str) -> None:
    check_choice("combine", combine, COMBINATIONS)
