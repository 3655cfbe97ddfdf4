"""Points for the search: a sweep over all exponents, special points, near ties, and neighbors of bad points."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np
from jax.extend.core import Literal

from functional_nn.gradients.search.exact import VectorFunction
from functional_nn.jaxprs.walk import equations

DENSE = (-60, 13)
"""Every binary exponent in this range is swept, with several mantissas. Outside of it, exponents are skipped."""
STRIDE = 16
MANTISSAS = 4
MARGINS = np.concatenate([np.arange(0, 20, 2.0), np.arange(20, 210, 10.0)])
"""Differences between the elements of a vector."""
COMPARING = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "max", "min", "clamp", "add", "sub"))
"""Operations whose constants may say where a function changes its branch, as in x < c, or x - c < 0."""
MOST_SPECIAL = 12
LARGEST_STEP = 54
"""The largest distance of a neighbor is two to this power, counted in float64 numbers."""


def ordinals(x: np.ndarray) -> np.ndarray:
    """Numbers the floating-point numbers of a type in order: neighbors have consecutive integers, and 0.0 has 0."""
    # The first bit is the sign, and the others count upward with the size. So the bits of a negative number, read as
    # an integer, are the lowest integer plus the size.
    bits = x.view(np.int64 if x.dtype == np.float64 else np.int32).astype(np.int64)
    lowest = np.int64(-(2**63)) if x.dtype == np.float64 else np.int64(-(2**31))
    return np.where(bits < 0, lowest - bits, bits)


def from_ordinals(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The floating-point numbers with these ordinals. Those that are not normal become the nearest that are, or 0."""
    limits = np.finfo(dtype)
    largest, smallest = (int(ordinals(np.asarray([x], dtype))[0]) for x in (limits.max, limits.smallest_normal))
    size = np.minimum(np.abs(numbers), largest)
    nearest_normal = np.where(size < smallest // 2, 0, smallest)
    size = np.where(size < smallest, nearest_normal, size)
    bits = size.astype(np.int64 if dtype == np.float64 else np.int32)
    magnitude = bits.view(dtype)
    return np.where(numbers < 0, -magnitude, magnitude)


def special_numbers(function: VectorFunction, dtype: np.dtype) -> list[float]:
    """Constants in the traced program at which it may change its branch, at most ``MOST_SPECIAL``."""
    found: dict[float, None] = {}
    for located in equations(jax.make_jaxpr(function)(np.zeros((), dtype))):
        if located.equation.primitive.name in COMPARING:
            for operand in located.equation.invars:
                if isinstance(operand, Literal) and np.ndim(operand.val) == 0 and 1e-8 < abs(operand.val) < 1e8:
                    found[abs(float(operand.val))] = None
    return list(found)[:MOST_SPECIAL]


def number_points(special: Iterable[float], dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """Points for a function of one number, (points, 1), the most important ones first.

    Args:
        special: numbers at which the function may change its branch.
        dtype: the type of the points.
        random: draws mantissas.
    """
    limits = np.finfo(dtype)
    beside = _beside(np.unique([0.0, 1.0, *special]), dtype)
    # The tails end a little beyond the point at which e⁻ˣ falls below the smallest normal number.
    tail = np.concatenate(
        [np.arange(0.5, 40.5, 0.5), np.geomspace(41, -1.2 * np.log(float(limits.smallest_normal)), 40)]
    )
    low, high = max(DENSE[0], int(limits.minexp)), min(DENSE[1], int(limits.maxexp))
    dense = np.ldexp(random.uniform(1, 2, (MANTISSAS, high - low)), np.arange(low, high))
    others = np.arange(int(limits.minexp), int(limits.maxexp), max(1, STRIDE * int(limits.maxexp) // 1024))
    coarse = np.ldexp(random.uniform(1, 2, len(others)), others)
    # One number for each exponent comes first, then the rare exponents, then the other numbers for each exponent.
    sizes = np.concatenate([tail, dense[0], coarse, *dense[1:]])
    both_signs = np.stack([sizes, -sizes], 1).reshape(-1)
    return _normal(np.concatenate([beside, both_signs]), dtype)[:, None]


def vector_points(size: int, dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """Points for a function of a vector, (points, size): normal numbers, margins, near ties, offsets, large numbers."""
    epsilon = float(np.finfo(dtype).eps)
    normal = random.normal(size=(40, size))
    found = [normal]
    for margin in (*MARGINS, *np.geomspace(epsilon * 4, 1, 24)):
        others = random.normal(size=(2, size))
        # In the first vector, one element is ahead by about the margin. In the second, the sorted elements have this
        # distance.
        ahead = others.copy()
        ahead[0, random.integers(size)] += margin
        ahead[1] = -margin * random.permutation(size)
        # All elements are equal, except for one that is ahead by the margin.
        tied = np.full((1, size), random.normal())
        tied[0, random.integers(size)] += margin
        found += [ahead, tied]
    for exponent in range(-60, 61, 4):
        scale = 2.0**exponent
        found += [scale * random.normal(size=(1, size)), scale + random.normal(size=(1, size))]
    # All elements are near one random number, closer and closer to a tie.
    for exponent in (-30, -20, -10, -5):
        found.append(random.normal() * (1 + 2.0**exponent * random.normal(size=(4, size))))
    every = np.concatenate(found) + 0.0  # no -0.0
    limits = np.finfo(dtype)
    kept = (np.abs(every) >= float(limits.smallest_normal)) | (every == 0)
    return random.permutation(every[kept.all(1)]).astype(dtype)


def neighbors(parents: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draws points near given ones, (count, n): one element moves by a random power of two, counted in numbers.

    A small move changes the last bits of an element, a large one its exponent. An element may also move close to
    another one or change its sign, or all elements may be shifted together.
    """
    dtype = parents.dtype
    chosen = parents[random.integers(len(parents), size=count)]
    size = parents.shape[1]
    rows, column = np.arange(count), random.integers(size, size=count)
    # The mantissa of float32 has 29 bits fewer. So the largest step changes the exponent as much as in float64.
    bits = LARGEST_STEP if dtype == np.float64 else LARGEST_STEP - 29
    steps = np.floor(2.0 ** random.uniform(0, bits, count)).astype(np.int64) * random.choice([-1, 1], count)
    # The kind of the move: below 0.15 an element starts from the place of another one, above 0.95 it changes its sign,
    # and from 0.85 to 0.95 all elements are shifted.
    move = random.uniform(size=count)
    start = chosen[rows, column]
    if size > 1:
        other = chosen[rows, (column + random.integers(1, size, count)) % size]
        start = np.where(move < 0.15, other, start)
    start = np.where(move > 0.95, -start, start)
    moved = from_ordinals(ordinals(np.ascontiguousarray(start)) + steps, dtype)
    result = chosen.copy()
    result[rows, column] = moved
    if size > 1:
        shifted = chosen + (moved - chosen[rows, column])[:, None]
        together = (move > 0.85) & (move <= 0.95)
        result = np.where(together[:, None], shifted, result)
    limits = np.finfo(dtype)
    fits = np.isfinite(result) & ((np.abs(result) >= limits.smallest_normal) | (result == 0))
    return result[fits.all(1)].astype(dtype)


def _beside(centers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Each center and its mirror image, their nearest numbers on both sides, and numbers ever further away."""
    centers = np.unique(np.concatenate([centers, -centers])).astype(dtype)
    steps = np.concatenate([[0], 2 ** np.arange(0, 52 if dtype == np.float64 else 23, 4)])
    away = np.concatenate([steps, -steps[1:]])
    nonzero = centers[centers != 0]
    close = from_ordinals((ordinals(nonzero)[:, None] + away).reshape(-1), dtype)
    zero = np.zeros(int((centers == 0).any()), dtype)
    return np.concatenate([centers, zero, close]).astype(np.float64)


def _normal(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The different numbers of a type among these, without infinite and subnormal ones, in the same order."""
    limits = np.finfo(dtype)
    kept = x[(np.abs(x) <= float(limits.max)) & ((np.abs(x) >= float(limits.smallest_normal)) | (x == 0))].astype(dtype)
    _, first = np.unique(kept, return_index=True)
    return kept[np.sort(first)]
