"""The value and the derivatives of a function, computed in one floating-point type, and their errors in ULP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.search.exact import ExactNumbers, ExactValues, VectorFunction

HandVJP: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array | tuple[jax.Array]]
"""``hand_vjp(x, y_bar) -> x_bar`` or ``(x_bar,)``."""

VALUE, GRADIENT, SECOND = "value", "gradient", "second derivative"
FORMULA, OF_FORMULA = "formula", "derivative of the formula"
QUANTITIES = (VALUE, GRADIENT, SECOND, FORMULA, OF_FORMULA)
"""Everything that can be computed. The last two need a hand-derived formula."""
BATCH = 128
"""The number of points that are computed at once."""


class ComputedFunction:
    """A function and its derivatives as JAX computes them in one type, in one compiled program.

    Args:
        function: the function of one number, or of a vector.
        hand_vjp: its hand-derived backward pass; None if there is none.
        size: the number of elements of the vector; None for a function of one number.
        dtype: the type of the computation.
    """

    def __init__(self, function: VectorFunction, hand_vjp: HandVJP | None, size: int | None, dtype: np.dtype):
        self._dtype = dtype
        self._shape = () if size is None else (size,)
        point = jax.ShapeDtypeStruct(self._shape, dtype)
        forward = jax.jacrev if size is None else jax.jacfwd  # grad of grad, or a Hessian

        def outputs(x: jax.Array) -> jax.Array:
            return jnp.reshape(function(x), (-1,))

        gradient = jax.jacrev(outputs)
        wanted = {VALUE: outputs, GRADIENT: gradient, SECOND: forward(gradient)}
        if hand_vjp is not None:

            def x_bar(x: jax.Array, y_bar: jax.Array) -> jax.Array:
                (bar,) = jax.tree.leaves(hand_vjp(x, y_bar))
                return jnp.reshape(bar, self._shape)

            def by_hand(x: jax.Array) -> jax.Array:
                y = jax.eval_shape(function, point)
                one_hot = jnp.reshape(jnp.eye(y.size, dtype=y.dtype), (y.size, *y.shape))
                return jnp.stack([x_bar(x, y_bar) for y_bar in one_hot])

            wanted |= {FORMULA: by_hand, OF_FORMULA: forward(by_hand)}
        self.refused: dict[str, str] = {}
        """For each quantity that JAX cannot compute, its message."""
        computable = {}
        for quantity, compute in wanted.items():
            try:
                jax.eval_shape(compute, point)
                computable[quantity] = compute
            except Exception as error:  # JAX has many kinds of errors for "not differentiable"
                self.refused[quantity] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        self._computable = computable
        self._run = self._compiled()

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities that JAX can compute."""
        return tuple(self._computable)

    def _compiled(self) -> Callable[[jax.Array], dict[str, jax.Array]]:
        computable = dict(self._computable)

        def at_one(x: jax.Array) -> dict[str, jax.Array]:
            return {name: compute(x) for name, compute in computable.items()}

        # The points are computed one after the other, as a user does it. Under vmap, some loops of JAX never end.
        return jax.jit(partial(jax.lax.map, at_one))

    def _results(self, x: jax.Array) -> dict[str, jax.Array]:
        """Runs the program. A derivative that can be traced but not compiled is dropped, the highest one first."""
        while True:
            try:
                return self._run(x)
            except TypeError as error:
                if len(self._computable) == 1:
                    raise
                last = list(self._computable)[-1]
                self._computable.pop(last)
                self.refused[last] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                self._run = self._compiled()

    def at(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Computes all quantities at points (points, n). The results have the shapes of ``ExactValues``."""
        parts = []
        for start in range(0, len(points), BATCH):
            part = points[start : start + BATCH].astype(self._dtype)
            # The last part is filled up with copies, so that one compiled program fits all parts.
            filled = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), 0)])
            results = self._results(jnp.asarray(filled.reshape(BATCH, *self._shape)))
            parts.append({name: np.asarray(array)[: len(part)] for name, array in results.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.quantities}
        count = points.shape[1]
        for name, array in joined.items():
            if name in (SECOND, OF_FORMULA):
                # The second derivatives that are compared are ∂²fᵢ/∂xⱼ², the diagonal.
                full = array.reshape(*array.shape[:2], count, count)
                joined[name] = np.diagonal(full, axis1=2, axis2=3)
            elif name != VALUE:
                joined[name] = array.reshape(*array.shape[:2], count)
        return joined


def exact_of(quantity: str, exact: ExactValues) -> ExactNumbers:
    """The exact numbers for a quantity."""
    if quantity == VALUE:
        return exact.value
    return exact.gradient if quantity in (GRADIENT, FORMULA) else exact.second


class Errors(NamedTuple):
    """The errors of computed numbers. NaN where the exact number is not known.

    Args:
        ulp: |computed - exact| in units in the last place of the exact number.
        relative: |computed - exact| / |exact|.
    """

    ulp: np.ndarray
    relative: np.ndarray


@np.errstate(all="ignore")
def errors(computed: np.ndarray, exact: ExactNumbers, dtype: np.dtype) -> Errors:
    """Measures the errors of computed numbers.

    The unit is one in the last place of the exact number, but at least the smallest normal number, because XLA on the
    CPU replaces smaller results of every operation by 0. Above the largest number, infinity is right. If the exact
    number is close to the largest one, infinity counts as the next power of two: a sum that overflows only because of
    rounding is not infinitely wrong.
    """
    limits = np.finfo(dtype)
    smallest, largest, epsilon = float(limits.smallest_normal), float(limits.max), float(limits.eps)
    found, high, low = computed.astype(np.float64), exact.high, exact.low
    _, exponent = np.frexp(np.clip(np.abs(high), smallest, largest))
    # frexp gives |x| = m 2ᵉ with ½ ≤ m < 1. There, the distance of neighboring numbers is ε 2ᵉ⁻¹.
    # All numbers are divided by 4, so that the power of two above the largest float64 can be represented.
    unit = np.maximum(np.ldexp(epsilon, exponent - 1), smallest) / 4
    same_sign = np.sign(found) == np.sign(high)
    nearly_overflows = np.isinf(found) & same_sign & (np.abs(high) > largest / 2)
    quarter = np.where(nearly_overflows, np.sign(high) * 2.0 ** (int(limits.maxexp) - 2), found / 4)
    # First the large parts, which nearly cancel and so leave no rounding error; then the small remainder.
    distance = np.abs((quarter - high / 4) - low / 4)
    distance = np.where(np.isinf(found) & same_sign & (np.abs(high) > largest), 0, distance)
    distance = np.where(np.isnan(found), np.inf, distance)
    size = np.maximum(np.abs(high), smallest) / 4
    unknown = np.isnan(high)
    return Errors(*(np.where(unknown, np.nan, distance / scale) for scale in (unit, size)))
