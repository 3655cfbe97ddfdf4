"""Means over seeds with their confidence, and whether one setting is better than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from functional_nn.core.errors import InputError, suggest
from functional_nn.sweeps.results.member import HasMembers, Member, check_metric, check_result

CONFIDENCE = 0.95
MOST_EXACT = 15
"""Pairs up to which all sign flips are tried, 2¹⁵ = 32,768."""
FLIPS = 20_000
"""So many are drawn where there are more pairs."""
ROUNDING = 1e-12
"""Differences that are equal in exact arithmetic differ by less than this share of the largest."""


class Setting(NamedTuple):
    """One setting over its seeds.

    Args:
        hyperparameters: all but what was folded.
        models: how many went into the mean.
        mean, deviation: of the metric, and its standard deviation (n - 1).
        low, high: the 95% confidence interval of the mean, by Student's t; NaN for a single member.
        not_finite: members left out of it since they were not finite, or not run to their end.
        epochs: the fewest and the most epochs that a member in the mean ran; 0 where there is none.
    """

    hyperparameters: Mapping[str, Any]
    models: int
    mean: float
    deviation: float
    low: float
    high: float
    not_finite: int
    epochs: tuple[int, int] = (0, 0)

    @property
    def half_width(self) -> float:
        """Of the interval."""
        return (self.high - self.low) / 2


class Comparison(NamedTuple):
    """Whether A is better than B, over pairs that differ in nothing else.

    Args:
        metric: what was compared.
        pairs: how many.
        difference: the mean of A - B.
        low, high: its 95% confidence interval.
        p_value: of the paired t test, two-sided: how often chance alone would give so large a difference. Where all
            differences are equal there is no t, and it is ``p_value_flips``.
        p_value_flips: the same by flipping the signs of the differences, which assumes no normal distribution; with n
            pairs it cannot be smaller than 2 / 2ⁿ.
    """

    metric: str
    pairs: int
    difference: float
    low: float
    high: float
    p_value: float
    p_value_flips: float

    @property
    def better(self) -> str | None:
        """``"A"`` or ``"B"`` where the t test sees a difference at 5%; None else."""
        if self.p_value >= 1 - CONFIDENCE:
            return None
        return "A" if (self.difference > 0) == (self.metric == "test_accuracy") else "B"

    def __str__(self) -> str:
        points = 100 if self.metric == "test_accuracy" else 1
        unit = " points" if self.metric == "test_accuracy" else f" in {self.metric}"
        difference, *ends = (points * value for value in (self.difference, self.low, self.high))
        interval = f"95% interval {ends[0]:.3f} to {ends[1]:.3f}"
        tests = f"p = {self.p_value:.2g} (t), {self.p_value_flips:.2g} (sign flips), {self.pairs} pairs"
        verdict = f"{self.better} is better" if self.better else "no difference is seen"
        return f"{verdict}: A - B = {difference:+.3f}{unit}, {interval}; {tests}"


def summarize(
    result: HasMembers, metric: str = "test_accuracy", *, over: str | Sequence[str] = "seed"
) -> list[Setting]:
    """Each setting's mean over seeds, or over other hyper-parameters, with its 95% confidence interval.

    Math:
        m = Σ xᵢ / n, s² = Σ (xᵢ - m)² / (n - 1), and the interval m ± t s / √n with t the quantile of Student's
        distribution of n - 1 degrees of freedom

    Args:
        result: of a sweep.
        metric: ``test_accuracy``, ``test_loss`` or ``train_loss``, after the last epoch.
        over: what is folded.

    Raises:
        InputError: for an unknown metric, or a name that is no hyper-parameter of the sweep.

    >>> import functional_nn as fnn, optax
    >>> members = fnn.grid(learning_rate=[1e-3, 1e-2], seed=range(3))
    >>> result = fnn.sweep(
    ...     fnn.dense(10), lambda h: optax.adam(h["learning_rate"]), members, fnn.load_dataset("mnist5k"), epochs=1)
    >>> [(row.hyperparameters["learning_rate"], row.models) for row in summarize(result)]
    [(0.001, 3), (0.01, 3)]
    """
    check_result(result)
    check_metric(metric)
    if not isinstance(over, Sequence) or not all(isinstance(name, str) for name in over):
        raise InputError("over", "names of hyper-parameters", repr(over))
    over = (over,) if isinstance(over, str) else tuple(over)
    known = result.members[0].hyperparameters if result.members else over
    if unknown := [name for name in over if name not in known and name != "seed"]:
        raise InputError("over", "hyper-parameters of the sweep", ", ".join(unknown), suggest(unknown[0], known))
    return [setting(given, members, metric) for given, members in together(result, over)]


def together(result: HasMembers, over: Sequence[str] = ("seed",)) -> list[tuple[Mapping[str, Any], list[Member]]]:
    """The members that differ in these hyper-parameters only, with what they share, in the order of the grid."""
    shared: dict[Any, list[Member]] = {}
    for member in result.members:
        rest = tuple((name, value) for name, value in member.hyperparameters.items() if name not in over)
        shared.setdefault(rest, []).append(member)
    return [(dict(rest), members) for rest, members in shared.items()]


def setting(hyperparameters: Mapping[str, Any], members: Sequence[Member], metric: str) -> Setting:
    """What a metric came to over some members."""
    counted = [m for m in members if m.has_result and math.isfinite(m.last(metric))]
    values = np.array([member.last(metric) for member in counted])
    epochs = [len(member.test_loss) for member in counted]
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
        not_finite=len(members) - len(counted),
        epochs=(min(epochs, default=0), max(epochs, default=0)),
    )


def half_width(deviation: Any, count: int) -> Any:
    """Of the 95% confidence interval of a mean, t s / √n; NaN for fewer than two."""
    from scipy import stats

    if count < 2:
        return math.nan
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) / math.sqrt(count) * deviation


def compare(first: HasMembers, second: HasMembers, metric: str = "test_accuracy") -> Comparison:
    """Is A better than B? Members are paired that have the same seed, and the same of all else that varies in both.

    Args:
        first, second: A and B, such as ``result.where(optimizer="adam")`` and ``result.where(optimizer="sgd")``.
        metric: ``test_accuracy``, ``test_loss`` or ``train_loss``, after the last epoch.

    Raises:
        InputError: where members cannot be paired one to one, where one is not finite or was not trained to its end,
            or for a single pair.

    >>> import functional_nn as fnn, optax
    >>> members = fnn.grid(learning_rate=[1e-4, 1e-2], seed=range(4))
    >>> result = fnn.sweep(
    ...     fnn.dense(10), lambda h: optax.adam(h["learning_rate"]), members, fnn.load_dataset("mnist5k"), epochs=1)
    >>> compare(result.where(learning_rate=1e-2), result.where(learning_rate=1e-4)).better
    'A'

    References:
        Student 1908, "The probable error of a mean"; Fisher 1935, "The design of experiments", section 21, for flips.
    """
    check_metric(metric)
    for result in (first, second):
        check_result(result)
    a, b = _paired(first, second)
    values = [(x.last(metric), y.last(metric)) for x, y in zip(a, b, strict=True)]
    if (count := len(values)) < 2:
        raise InputError("pairs", "at least two", count, "Run more seeds.")
    if not np.isfinite(values).all():
        raise InputError("metric", "one that is a finite number for all members", repr(metric))
    differences = np.subtract(*np.transpose(values))
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    p_value = p_value_flips = _flips(differences)
    if deviation > ROUNDING * np.abs(values).max():
        p_value = _t_test(mean, deviation, count)
    half = half_width(deviation, count)
    return Comparison(metric, count, mean, mean - half, mean + half, p_value, p_value_flips)


def _paired(first: HasMembers, second: HasMembers) -> tuple[list[Member], list[Member]]:
    varying = [name for name in dict.fromkeys((*first.varied, *second.varied)) if name != "seed"]
    both = ["seed", *(name for name in varying if name in first.varied and name in second.varied)]

    def by_key(result: HasMembers, argument: str) -> dict[Any, Member]:
        members = {tuple(member.hyperparameters.get(name) for name in both): member for member in result.members}
        if len(members) < len(result.members):
            remedy = "Choose one setting with where(…)."
            given = f"{len(result.members)} members for {len(members)}"
            raise InputError(argument, f"one member for each {', '.join(both)}", given, remedy)
        if bad := {m.number: m.status for m in result.members if not m.has_result or m.status == "halved"}:
            number, status = next(iter(bad.items()))
            given = f"{len(bad)} others, such as member {number} ({status})"
            remedy = "Leave out their seeds in both."
            raise InputError(argument, "members that were trained to their end", given, remedy)
        return members

    a, b = by_key(first, "first"), by_key(second, "second")
    if a.keys() != b.keys():
        alone = len(a.keys() ^ b.keys())
        raise InputError(
            "second", f"members with the same {', '.join(both)} as the first", f"{alone} without a partner"
        )
    return list(a.values()), [b[key] for key in a]


def _t_test(mean: float, deviation: float, count: int) -> float:
    from scipy import stats

    return float(2 * stats.t.sf(abs(mean) / (deviation / math.sqrt(count)), count - 1))


def _flips(differences: np.ndarray) -> float:
    """How many of all sign flips give a mean at least as far from 0; of so many drawn ones where there are too many."""
    count = len(differences)
    if count <= MOST_EXACT:
        signs = np.array(list(product((1, -1), repeat=count)))
    else:
        signs = np.random.default_rng(0).choice((1, -1), (FLIPS, count))
        signs[0] = 1
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= abs(differences.sum()) - ROUNDING * np.abs(differences).sum()))
