"""Points for the comparison of activations: normal numbers, tails, zeros, kinks and their neighbors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from functional_nn.activations.activation_types import Activation
from functional_nn.activations.table import ACTIVATIONS

if TYPE_CHECKING:
    from functional_nn.gradients.references.activation_definitions import Formula


def regime_points(activation: Activation, dtype: np.dtype, density: int = 1) -> dict[str, np.ndarray]:
    """Makes points of a type for each regime, about 150 for a density of 1.

    The regimes are normal numbers, ±0, subnormal numbers, huge numbers, and tails up to the points where the derivative
    underflows. The package's own activations also have kinks, their neighbors, and neighbors of the derivative's zeros.
    """
    limits = jnp.finfo(dtype)
    smallest, largest = float(limits.smallest_normal), float(limits.max)
    rng = np.random.default_rng(0)
    # A little beyond the point at which e⁻ˣ falls below the smallest normal number.
    far = 1.3 * -math.log(smallest)
    tail = np.concatenate(
        [np.geomspace(4, far, 24 * density), rng.uniform(4, far, 12 * density), rng.uniform(4, 16, 12 * density)]
    )
    small = np.geomspace(smallest * 2, 0.1, 12 * density)
    subnormal = smallest * np.array([0.5, 0.75, 2.0 ** -(limits.nmant - 1)])
    huge = np.array([1e4, math.sqrt(largest) / 2, math.sqrt(largest) * 3, largest / 4, largest])
    regimes = {
        "normal": np.concatenate(
            [
                np.linspace(-4, 4, 33),
                rng.normal(size=24 * density),
                rng.uniform(-4, 4, size=24 * density),
                small,
                -small,
            ]
        ),
        "tails": np.concatenate([tail, -tail]),
        "±0": np.array([0.0, -0.0]),
        "subnormal": np.concatenate([subnormal, -subnormal]),
        "huge": np.concatenate([huge[huge <= largest], -huge[huge <= largest]]),
    }
    arrays = {name: values.astype(dtype) for name, values in regimes.items()}
    formula = mpmath_formula(activation)
    if formula and formula.kinks:
        kinks = np.asarray(formula.kinks, dtype)
        # XLA on the CPU replaces subnormal numbers by 0, so these are the neighbors of 0.
        beside_zero = np.asarray([smallest, -smallest], dtype)
        beside = _neighbors([kink for kink in formula.kinks if kink], dtype, steps=3)
        arrays["kinks"] = kinks
        arrays["beside kinks"] = np.concatenate([beside, beside_zero] if 0.0 in formula.kinks else [beside])
    if formula and formula.zeros:
        arrays["zeros"] = _neighbors(formula.zeros, dtype, steps=12 * density)
    return arrays


def _neighbors(centers: Sequence[float], dtype: np.dtype, steps: int) -> np.ndarray:
    """The closest numbers of a type on both sides of each center."""
    infinity = np.asarray(np.inf, dtype)
    found = []
    for center in np.asarray(centers, dtype):
        up = down = center
        for _ in range(steps):
            up = np.nextafter(up, infinity)
            down = np.nextafter(down, -infinity)
            found += [up, down]
    return np.asarray(found, dtype)


def mpmath_formula(activation: Activation) -> Formula | None:
    """The mpmath formula of one of the package's activations; None for a user's activation of the same name."""
    from functional_nn.gradients.references.activation_definitions import FORMULAS

    ours = ACTIVATIONS.get(activation.name)
    is_ours = isinstance(ours, Activation) and ours.function is activation.function
    return FORMULAS[activation.name] if is_ours else None
