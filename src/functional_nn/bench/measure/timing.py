"""Timing of calls that take turns. A time ends when every output is ready."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax

from functional_nn.bench.units import seconds_scale

Name = TypeVar("Name")
Result = TypeVar("Result")

LEAST_ROUNDS = 5
MOST_CALLS = 100
"""The largest number of calls that one contestant makes in a round."""
ROUNDS = 12
"""The given time is divided into this number of rounds."""


class Timing(NamedTuple):
    """The seconds of single calls, in rounds. The calls of one round run one after another; then others take a turn.

    >>> print(Timing(((0.001, 0.002, 0.003),)))
    2.00 ms (1.50-2.50, n=3)
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def samples(self) -> list[float]:
        """The seconds of all calls, sorted."""
        return sorted(seconds for calls in self.rounds for seconds in calls)

    @property
    def median(self) -> float:
        """The median seconds of a call."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile of the seconds of a call."""
        samples = self.samples
        if len(samples) == 1:
            return samples[0], samples[0]
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        return low, high

    @property
    def best(self) -> float:
        """The seconds of the fastest call."""
        return self.samples[0]

    def divided_by(self, count: int) -> Timing:
        """The timing of one step of calls that run ``count`` steps each.

        >>> print(Timing(((0.008,),)).divided_by(4))
        2.00 ms (2.00-2.00, n=1)
        """
        return Timing(tuple(tuple(seconds / count for seconds in calls) for calls in self.rounds))

    def __str__(self) -> str:
        return self.describe(with_count=True)

    def describe(self, *, with_count: bool = False) -> str:
        """Median and quartiles as text, in one unit."""
        scale, unit = seconds_scale(self.median)
        median = self.median * scale
        low, high = (seconds * scale for seconds in self.quartiles)
        digits = 0
        if median < 10:
            digits = 2
        elif median < 100:
            digits = 1
        count = f", n={len(self.samples)}" if with_count else ""
        return f"{median:.{digits}f} {unit} ({low:.{digits}f}-{high:.{digits}f}{count})"

    def to_dict(self) -> dict[str, object]:
        """Median, quartiles, number of calls, and the median of each round."""
        low, high = self.quartiles
        return {
            "median": self.median,
            "lower_quartile": low,
            "upper_quartile": high,
            "calls": len(self.samples),
            "round_medians": [statistics.median(calls) for calls in self.rounds],
        }


def clocked(function: Callable[..., Result], *arguments: object) -> tuple[float, Result]:
    """Calls a function; returns the seconds until every output is ready, and the outputs."""
    start = time.perf_counter()
    outputs = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, outputs


def copies(arguments: Sequence[object], donated: Sequence[int]) -> list[object]:
    """The arguments, with a finished copy in place of each donated argument."""
    copied = [
        jax.tree.map(jax.numpy.copy, argument) if number in donated else argument
        for number, argument in enumerate(arguments)
    ]
    return jax.block_until_ready(copied)


def race(contestants: Mapping[Name, Callable[[], float]], seconds: float) -> dict[Name, Timing]:
    """Times contestants that take turns, round by round, for about ``seconds`` and at least 5 rounds.

    A contestant makes one call and returns its seconds. Because they take turns, other work on the machine slows all
    of them alike. A fast contestant makes up to 100 calls in a round. Each round begins with another contestant.
    """
    names = list(contestants)
    # The first call of each is slow, so the better one of two says how many calls fit into a round.
    estimates = {name: min(contestants[name]() for _ in range(2)) for name in names}
    share = seconds / ROUNDS / len(names)
    calls = {name: max(1, min(MOST_CALLS, int(share / max(estimates[name], 1e-7)))) for name in names}
    rounds: dict[Name, list[tuple[float, ...]]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    turn = 0
    while turn < LEAST_ROUNDS or (turn < ROUNDS and time.perf_counter() < end):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            rounds[name].append(tuple(contestants[name]() for _ in range(calls[name])))
        turn += 1
    return {name: Timing(tuple(rounds[name])) for name in names}
