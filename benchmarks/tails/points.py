"""The points of each regime, in one floating-point type."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MakePoints = Callable[[np.dtype, np.random.Generator], dict[str, np.ndarray]]
"""``make(dtype, random)`` returns the points (points, n) of each regime."""
TAIL = 200.0
SIZE, GATES = 3, 4


def numbers(dtype: np.dtype, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Points of a function of one number. "Normal" has points beside 1, 3 and 6, where some functions have kinks."""
    beside = [center * (1 + step * float(np.finfo(dtype).eps)) for center in (1, 3, 6) for step in (-4, -1, 1, 4)]
    tail = np.concatenate([np.arange(4, 44, 1.0), np.geomspace(45, TAIL, 16)])
    return _of_numbers(
        {
            "normal": [*random.uniform(1e-2, 4, 30), *beside],
            "tails": tail * random.uniform(0.99, 1.01, len(tail)),
            "near 0": np.geomspace(1e-30, 1e-2, 30) * random.uniform(1, 2, 30),
            "subnormal": _subnormal(dtype, 3, random),
            "huge": np.geomspace(TAIL, float(np.finfo(dtype).max) / 4, 24) * random.uniform(1, 2, 24),
        },
        dtype,
    )


def probabilities(target: float, dtype: np.dtype, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Probabilities as arguments of a loss. Some of them are near the label."""
    epsilon = float(np.finfo(dtype).eps)
    small = np.geomspace(epsilon * 2, 0.1, 20) * random.uniform(0.9, 1.1, 20)
    sign = np.where(random.uniform(size=20) < 0.5, -1, 1) if 0 < target < 1 else -1
    return {
        "normal": _column(random.uniform(0.05, 0.95, 30), dtype),
        "near ties": _column(target + sign * small, dtype),
        "tails": _column([*np.geomspace(1e-30, 1e-2, 20), *(1 - small)], dtype),
        "subnormal": _column(_subnormal(dtype, 3, random), dtype),
    }


def vectors(dtype: np.dtype, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Logits: margins, with each element ahead in turn, near ties, small and huge numbers."""
    smallest = float(np.finfo(dtype).eps) * 4
    close = random.normal(size=(18, 1)) + np.geomspace(smallest, 1e-2, 18)[:, None] * random.normal(size=(18, SIZE))
    sizes = np.geomspace(1e3, float(np.finfo(dtype).max) / 8, 9)[:, None]
    return {
        "normal": random.normal(size=(18, SIZE)).astype(dtype),
        "margins": _margins(SIZE, random).astype(dtype),
        "near ties": close.astype(dtype),
        "subnormal": _subnormal(dtype, (3, SIZE), random).astype(dtype),
        "huge": (sizes * random.normal(size=(9, SIZE))).astype(dtype),
    }


def masked(dtype: np.dtype, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Logits for vectors to which a masked element is added."""
    found = vectors(dtype, random)
    return {"masked": np.concatenate([found["normal"][:9], found["margins"][::3]])}


def directions(direction: Sequence[float], dtype: np.dtype, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Vectors to compare with a given one. "Near ties" are nearly parallel or nearly opposite to it."""
    found = vectors(dtype, random)
    moves = np.geomspace(1e-6 if dtype == np.float64 else 1e-3, 0.3, 14)[:, None] * random.normal(size=(14, SIZE))
    signs = np.where(np.arange(14) % 3 == 2, -1, 1)[:, None]
    return found | {"near ties": (signs * (np.asarray(direction) + moves)).astype(dtype)}


def cells(dtype: np.dtype, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Arguments of gates. In the margins, gates are open or closed to different degrees."""
    margins = np.concatenate([np.linspace(4, 40, 13), np.geomspace(50, TAIL, 5)])
    signs = np.where(random.uniform(size=(len(margins), GATES)) < 0.5, -1, 1)
    strengths = margins[:, None] * random.uniform(0.2, 1, (len(margins), GATES))
    huge = np.geomspace(1e3, float(np.finfo(dtype).max) / 8, 4)[:, None] * random.normal(size=(4, GATES))
    return {
        "normal": random.normal(size=(12, GATES)).astype(dtype),
        "margins": (signs * strengths).astype(dtype),
        "near 0": (np.geomspace(1e-20, 1e-3, 6)[:, None] * random.normal(size=(6, GATES))).astype(dtype),
        "subnormal": _subnormal(dtype, (2, GATES), random).astype(dtype),
        "huge": huge.astype(dtype),
    }


def _margins(size: int, random: np.random.Generator) -> np.ndarray:
    margins = np.concatenate([np.linspace(0, 40, 17), np.geomspace(45, TAIL, 10)])
    found = random.normal(size=(len(margins), size))
    found[np.arange(len(margins)), np.arange(len(margins)) % size] += margins
    return found


def _subnormal(dtype: np.dtype, shape: int | tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    return float(np.finfo(dtype).smallest_normal) * random.uniform(0.01, 0.9, shape)


def _of_numbers(found: dict[str, Sequence[float] | np.ndarray], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Adds the points with the other sign, and 0 to the points near 0."""
    with_signs = {name: np.concatenate([x, -np.asarray(x)]) for name, x in found.items()}
    with_signs["near 0"] = np.concatenate([with_signs["near 0"], [0.0]])
    return {name: _column(x, dtype) for name, x in with_signs.items()}


def _column(x: Sequence[float] | np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.unique(np.asarray(x, np.float64).astype(dtype))[:, None]
