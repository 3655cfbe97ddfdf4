"""The knee: the smallest batch or population with nearly the best throughput."""

from __future__ import annotations

from collections.abc import Sequence

NEAR_BEST = 0.8
"""The knee is the smallest batch or population with this share of the best throughput."""


def knee(sizes: Sequence[int], seconds: Sequence[float]) -> int:
    """The smallest size with at least 80% of the best throughput, size / seconds.

    A smaller size does not fill the device. A larger size only makes each step longer.

    >>> knee([1, 8, 64, 512], [1.0, 1.0, 2.0, 15.0])
    64
    """
    rates = {size: size / time for size, time in zip(sizes, seconds, strict=True)}
    return min(size for size, rate in rates.items() if rate >= NEAR_BEST * max(rates.values()))
