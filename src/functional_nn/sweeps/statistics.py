"""Statistics of sweeps: means over seeds with confidence intervals."""

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
    return [row for row, _ in settings_of(result, metric, over)]


def settings_of(result: HasMembers, metric: str, over: Sequence[str] = ("seed",)) -> list[tuple[Setting, list[Member]]]:
    """The settings, averaged over some hyper-parameters, each with its members; in the order of the grid."""
    shared: dict[tuple[tuple[str, PlainValue], ...], list[Member]] = {}
    for member in result.members:
        rest = tuple((name, value) for name, value in member.hyperparameters.items() if name not in over)
        shared.setdefault(rest, []).append(member)
    return [(_setting(dict(rest), members, metric), members) for rest, members in shared.items()]


def ranked_settings(
    result: HasMembers, metric: str, over: Sequence[str] = ("seed",)
) -> list[tuple[Setting, list[Member]]]:
    """The same, the best first. Those without a mean are last."""
    sign = -1 if larger_is_better(metric) else 1

    def place(pair: tuple[Setting, list[Member]]) -> float:
        mean = pair[0].mean
        return math.inf if math.isnan(mean) else sign * mean

    return sorted(settings_of(result, metric, over), key=place)


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
