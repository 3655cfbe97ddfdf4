"""Regimes of points, such as tails or near ties, for tables of errors."""

from __future__ import annotations

import numpy as np

SMALL, FAR, HUGE = 1e-3, 4.0, 1e3
"""Numbers below the first are near 0. Numbers from the second on are in the tails. Those above the third are huge."""
MARGIN = 8.0
"""Vectors whose largest and smallest element differ by more than this have a margin."""


def regimes(points: np.ndarray) -> dict[str, np.ndarray]:
    """A mask of the points, (points, n), for each regime. Each point is in one regime."""
    sizes = np.abs(points).max(1)
    if points.shape[1] == 1:
        near, tails, large = (sizes < SMALL, sizes >= FAR, sizes > HUGE)
        return {"normal": ~near & ~tails, "tails": tails & ~large, "near 0": near, "huge": large}
    ordered = np.sort(points, 1)
    with np.errstate(all="ignore"):
        spread, gap = ordered[:, -1] - ordered[:, 0], np.diff(ordered, axis=1).min(1)
        tied = gap <= SMALL * sizes
    large = sizes > HUGE
    margins = ~large & (spread > MARGIN)
    near = ~large & ~margins & (sizes < SMALL)
    ties = ~large & ~margins & ~near & tied
    return {
        "normal": ~(large | margins | near | ties),
        "margins": margins,
        "near ties": ties,
        "near 0": near,
        "huge": large,
    }
