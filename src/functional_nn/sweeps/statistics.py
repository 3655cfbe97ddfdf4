"""Statistics of sweeps: means over seeds with confidence intervals, and paired comparisons of two settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.texts import suggest
from functional_nn.sweeps.grid import PlainValue
from functional_nn.sweeps.member import HasMembers, Member, check_result, chosen_metric, has_number
from functional_nn.training.evaluate import larger_is_better

CONFIDENCE = 0.95
FLIPS = 2**15
"""With at most 15 pairs, all sign flips are tried. With more pairs, this number of flips is drawn at random."""
Deviation = TypeVar("Deviation", float, np.ndarray)

ROUNDING = 1e-12
"""Differences that are equal in exact arithmetic differ by less than this share of the largest value."""


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


class Comparison(NamedTuple):
    """A comparison of A and B, over pairs of members that are equal in everything else.

    Args:
        metric: the metric that was compared.
        pairs: the number of pairs.
        difference: the mean of A - B.
        low, high: the 95% confidence interval of the difference.
        p_value: the p-value of the paired, two-sided t test: the probability of a difference at least this large if A
            and B were equally good. If all differences are equal, there is no t, and this is ``p_value_flips``.
        p_value_flips: the p-value from flipping the signs of the differences. It does not assume a normal distribution.
            With n pairs it cannot be smaller than 2 / 2ⁿ.
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
        """``"A"`` or ``"B"`` if the t test finds a difference at the 5% level; otherwise None."""
        if self.p_value >= 1 - CONFIDENCE:
            return None
        return "A" if (self.difference > 0) == larger_is_better(self.metric) else "B"

    def __str__(self) -> str:
        is_share = self.metric.endswith("_accuracy")
        points, unit = (100, " points") if is_share else (1, f" in {self.metric}")
        difference, *ends = (points * value for value in (self.difference, self.low, self.high))
        interval = f"95% interval {ends[0]:.3f} to {ends[1]:.3f}"
        tests = f"p = {self.p_value:.2g} (t), {self.p_value_flips:.2g} (sign flips), {self.pairs} pairs"
        verdict = f"{self.better} is better" if self.better else "no difference is seen"
        return f"{verdict}: A - B = {difference:+.3f}{unit}, {interval}; {tests}"


def summarize(result: HasMembers, metric: str | None = None, *, over: str | Sequence[str] = "seed") -> list[Setting]:
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
    >>> [(row.hyperparameters["learning_rate"], row.models) for row in summarize(result)]
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
    return [setting(given, members, metric) for given, members in together(result, over)]


def together(
    result: HasMembers, over: Sequence[str] = ("seed",)
) -> list[tuple[Mapping[str, PlainValue], list[Member]]]:
    """Groups of members that differ only in these hyper-parameters, each with the values that they share."""
    shared: dict[tuple[tuple[str, PlainValue], ...], list[Member]] = {}
    for member in result.members:
        rest = tuple((name, value) for name, value in member.hyperparameters.items() if name not in over)
        shared.setdefault(rest, []).append(member)
    return [(dict(rest), members) for rest, members in shared.items()]


def setting(hyperparameters: Mapping[str, PlainValue], members: Sequence[Member], metric: str) -> Setting:
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


def compare(first: HasMembers, second: HasMembers, metric: str | None = None) -> Comparison:
    """Compares A with B by pairs of members with the same seed.

    Hyper-parameters that vary in both A and B are also the same in each pair.

    Args:
        first, second: A and B, such as ``result.where(optimizer="adam")`` and ``result.where(optimizer="sgd")``.
        metric: a name such as ``test_loss``, after the last epoch; None for ``SweepResult.metric`` of the first.

    Raises:
        InputError: if members cannot be paired one to one, if a member is not finite or was not trained to its end, or
            if there is only one pair.

    >>> import functional_nn as fnn, optax
    >>> members = fnn.grid(learning_rate=[1e-4, 1e-2], seed=range(4))
    >>> result = fnn.sweep(
    ...     fnn.dense(10), lambda h: optax.adam(h["learning_rate"]), members, fnn.load_dataset("mnist5k"), epochs=1)
    >>> compare(result.where(learning_rate=1e-2), result.where(learning_rate=1e-4)).better
    'A'

    References:
        Student 1908, "The probable error of a mean"; Fisher 1935, "The design of experiments", section 21 (sign flips).
    """
    for result in (first, second):
        check_result(result)
    metric = chosen_metric(first, metric)
    a, b = _paired(first, second)
    values = [(x.last(metric), y.last(metric)) for x, y in zip(a, b, strict=True)]
    count = len(values)
    if count < 2:
        raise InputError("pairs", "at least two", count, "Run more seeds.")
    if not np.isfinite(values).all():
        raise InputError("metric", "a metric that is finite for all members", repr(metric))
    from scipy import stats

    differences = np.subtract(*np.transpose(values))
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    p_value = p_value_flips = _flips(differences)
    # If all differences are equal, the deviation is 0 or rounding, and t would be meaningless.
    if deviation > ROUNDING * np.abs(values).max():
        _, p_value = map(float, stats.ttest_1samp(differences, 0))
    half = half_width(deviation, count)
    return Comparison(metric, count, mean, mean - half, mean + half, p_value, p_value_flips)


def _paired(first: HasMembers, second: HasMembers) -> tuple[list[Member], list[Member]]:
    varying = [name for name in dict.fromkeys((*first.varied, *second.varied)) if name != "seed"]
    # What varies in one of them only is what is compared, so it may differ within a pair.
    both = ["seed", *(name for name in varying if name in first.varied and name in second.varied)]

    def by_key(result: HasMembers, argument: str) -> dict[tuple[PlainValue, ...], Member]:
        members = {tuple(member.hyperparameters.get(name) for name in both): member for member in result.members}
        if len(members) < len(result.members):
            remedy = "Choose one setting with where(…)."
            given = f"{len(result.members)} members for {len(members)}"
            raise InputError(argument, f"one member for each {', '.join(both)}", given, remedy)
        bad = [member for member in result.members if not member.is_trained_to_its_end]
        if bad:
            given = f"{len(bad)} others, such as member {bad[0].number} ({bad[0].status})"
            remedy = "Leave out their seeds in both results."
            raise InputError(argument, "members that were trained to their end", given, remedy)
        return members

    a, b = by_key(first, "first"), by_key(second, "second")
    if a.keys() != b.keys():
        alone = len(a.keys() ^ b.keys())
        raise InputError(
            "second", f"members with the same {', '.join(both)} as the first", f"{alone} without a partner"
        )
    return list(a.values()), [b[key] for key in a]


def _flips(differences: np.ndarray) -> float:
    """The share of sign flips that give a mean at least as far from 0."""
    from scipy import stats

    largest = np.abs(differences).sum() or 1.0

    def distance(values: np.ndarray, axis: int) -> np.ndarray:
        # Flips that are equally far in exact arithmetic count as such, whatever the rounding of their sums.
        return np.round(np.abs(values.sum(axis)) / largest / ROUNDING)

    flips = {"permutation_type": "samples", "alternative": "greater", "n_resamples": FLIPS, "random_state": 0}
    return float(stats.permutation_test((differences,), distance, **flips).pvalue)
