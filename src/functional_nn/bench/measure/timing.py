"""Seconds: of calls that take turns, every output waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

LEAST_ROUNDS = 5
MOST_CALLS = 100
"""In one round of one contestant."""
ROUNDS = 12
"""How many rounds the time that is given is divided into."""


class Timing(NamedTuple):
    """Seconds of single calls, round by round; one round's calls follow each other, then others have their turn.

    >>> print(Timing(((0.001, 0.002, 0.003),)))
    2.00 ms (1.50-2.50, n=3)
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def samples(self) -> list[float]:
        """All calls."""
        return sorted(seconds for calls in self.rounds for seconds in calls)

    @property
    def median(self) -> float:
        """Seconds of a call, the median of all."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """What a quarter of the calls, and what three quarters, took at most."""
        samples = self.samples
        if len(samples) == 1:
            return samples[0], samples[0]
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        return low, high

    @property
    def best(self) -> float:
        """Seconds of the quickest call."""
        return self.samples[0]

    def __str__(self) -> str:
        scale, unit = scaled(self.median)
        low, high = (seconds * scale for seconds in self.quartiles)
        digits = 2 if self.median * scale < 10 else 1 if self.median * scale < 100 else 0
        middle = f"{self.median * scale:.{digits}f}"
        return f"{middle} {unit} ({low:.{digits}f}-{high:.{digits}f}, n={len(self.samples)})"

    def to_dict(self) -> dict[str, Any]:
        """Median, quartiles, number of calls, and each round's median."""
        low, high = self.quartiles
        return {
            "median": self.median,
            "lower_quartile": low,
            "upper_quartile": high,
            "calls": len(self.samples),
            "round_medians": [statistics.median(calls) for calls in self.rounds],
        }


def scaled(seconds: float) -> tuple[float, str]:
    """What to multiply seconds by to read them easily, and the unit's name."""
    return (1.0, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")


def in_seconds(seconds: float) -> str:
    """Seconds in three digits or so.

    >>> in_seconds(0.01234), in_seconds(2.5e-5)
    ('12.3 ms', '25.0 µs')
    """
    scale, unit = scaled(seconds)
    return f"{seconds * scale:.3g} {unit}" if seconds * scale >= 100 else f"{seconds * scale:#.3g} {unit}"


def clocked(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """The seconds until every output is there, and the outputs."""
    start = time.perf_counter()
    outputs = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, outputs


def setting(name: str) -> Any:
    """One of JAX's settings as it is here and now."""
    return getattr(jax.config, name)


def copies(arguments: Sequence[Any], donated: Sequence[int]) -> list[Any]:
    """The arguments, those that are given away as copies of their own, which are there when this returns."""
    own = [jax.tree.map(jax.numpy.copy, a) if i in donated else a for i, a in enumerate(arguments)]
    return jax.block_until_ready(own)


def race(contestants: Mapping[Any, Callable[[], float]], seconds: float) -> dict[Any, Timing]:
    """Lets contestants take turns, round by round, for so many seconds, at least 5 rounds.

    A contestant makes one call and gives its seconds. So what else keeps the machine busy for a while meets all of
    them. In a round a quick contestant makes several calls, up to 100; who begins changes from round to round.
    """
    names = list(contestants)
    estimates = {name: min(contestants[name]() for _ in range(2)) for name in names}
    share = seconds / ROUNDS / len(names)
    calls = {name: max(1, min(MOST_CALLS, int(share / max(estimates[name], 1e-7)))) for name in names}
    rounds: dict[Any, list[tuple[float, ...]]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    turn = 0
    while turn < LEAST_ROUNDS or (turn < ROUNDS and time.perf_counter() < end):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rounds[name].append(tuple(contestants[name]() for _ in range(calls[name])))
        turn += 1
    return {name: Timing(tuple(rounds[name])) for name in names}
