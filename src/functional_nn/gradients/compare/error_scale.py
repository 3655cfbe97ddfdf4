"""The scale of errors in a derivative: how far rounding alone can move it, measured with a small error everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.evaluate import Compute, EquationPath, bind, evaluate
from functional_nn.jaxprs.walk import all_equations, array_type

SIZE = 2.0**-30
"""The relative error of each operation: far above rounding in float64, small enough for its effect to be linear."""
RUNS = 8
PLACES = 10_007
"""The number of places among the errors from which an operation takes its own. It is a prime number, so that operations
on arrays of usual sizes rarely take the same errors."""

SUMS = frozenset(("conv_general_dilated", "cumsum", "dot_general", "reduce_sum", "reduce_window_sum"))
"""Operations that round after every term that they add."""
ROUNDED = (
    SUMS
    | {"acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma"}
    | {"div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic"}
    | {"mul", "pow", "rsqrt", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh"}
)
"""Operations that round their results. Maxima, selections and moves of elements are exact, so they get no error."""
SOLVERS = frozenset(
    ("cholesky", "custom_linear_solve", "eigh", "fft", "householder_product", "lu", "qr", "svd", "triangular_solve")
)
"""Backward stable operations: their rounding error is as large as the effect of errors in their operands, which are
small beside the largest element of a matrix."""


def rounding(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """How far each element of a result moves, per unit of relative error in every operation (Monte Carlo arithmetic).

    Each operation's result is multiplied by 1 + 2⁻³⁰ r, where ¾ ≤ |r| ≤ 1 is drawn for every element. To the
    result of a sum, 2⁻³⁰ r times the sum of absolute terms is added. This returns the largest change of the result in
    eight runs, divided by 2⁻³⁰. This number times the unit roundoff estimates how much rounding can change the result
    of such a program. The change is large if terms cancel or if the function is ill-conditioned.

    >>> with jax.enable_x64(True):
    ...     size = float(rounding(lambda x: (x + 1e6) - 1e6, jnp.array(1.0)))
    >>> 7e5 <= size <= 2.1e6
    True

    References:
        Parker 1997, "Monte Carlo arithmetic: exploiting randomness in floating-point arithmetic".
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)

    def noisy(errors: jax.Array) -> list[jax.Array]:
        return evaluate(program, leaves, Noise(errors))

    original = evaluate(program, leaves)
    variables = [variable for equation in all_equations(program) for variable in (*equation.invars, *equation.outvars)]
    moved = jax.vmap(noisy)(_drawn(max((array_type(variable).size for variable in variables), default=0)))
    sizes = [_largest_change(many, one) / SIZE for many, one in zip(moved, original, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(shape), sizes)


def _largest_change(moved: jax.Array, original: jax.Array) -> jax.Array:
    """The largest change of each element in all runs. Runs that left the function's domain are ignored."""
    changes = jnp.abs(moved - original[None])
    return jnp.max(jnp.where(jnp.isfinite(moved), changes, 0), 0)


def _drawn(largest: int) -> jax.Array:
    """The relative errors of all runs, (runs, n). Every operation takes those from another place on.

    Their sizes differ, because errors of equal size from two operations would often cancel in all runs.
    """
    random, shape = np.random.default_rng(0), (RUNS, PLACES + largest)
    # These numbers are constants of the compiled program, so each is stored in one byte: |r| = 96/127 … 127/127.
    drawn = random.integers(96, 128, shape, np.int8) * random.choice(np.array([-1, 1], np.int8), shape)
    return SIZE / 127 * jnp.asarray(drawn).astype(float)


class Noise:
    """A hook for ``evaluate`` that makes the result of every rounded operation slightly wrong.

    Args:
        errors: the relative errors of one run, at least as many as the largest array of the program has elements, and
            ``PLACES`` more.
    """

    def __init__(self, errors: jax.Array):
        self._errors, self._place = errors, 0

    def __call__(
        self, path: EquationPath, equation: JaxprEqn, operands: Sequence[jax.Array], compute: Compute
    ) -> list[jax.Array]:
        name = equation.primitive.name
        if name == "while":
            # Noise inside the loop could change its condition, and so the number of steps.
            return [self._with_relative_error(result) for result in bind(equation, operands)]
        if name in SOLVERS:
            return bind(equation, [self._with_error(operand, _largest_of_matrix(operand)) for operand in operands])
        results = compute(operands)
        if name not in ROUNDED or not jnp.issubdtype(results[0].dtype, jnp.inexact):
            return results
        (result,) = results
        if name not in SUMS:
            return [self._with_relative_error(result)]
        # The sum of absolute terms is the same operation on the absolute values of the operands.
        return [self._with_error(result, *bind(equation, [jnp.abs(x).astype(x.dtype) for x in operands]))]

    def _with_relative_error(self, value: jax.Array) -> jax.Array:
        """The value with a random relative error of about ``SIZE``. Integers do not change."""
        return value * (1 + self._error(value)) if jnp.issubdtype(value.dtype, jnp.inexact) else value

    def _with_error(self, value: jax.Array, size: jax.Array) -> jax.Array:
        """The value with a random error of about ``SIZE`` times a size. Integers do not change."""
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        error = self._error(value) * size.astype(value.dtype)
        return jnp.where(jnp.isfinite(size), value + error, value)

    def _error(self, like: jax.Array) -> jax.Array:
        """The next relative errors for an array. Both parts of a complex number get the same one."""
        start, self._place = self._place, (self._place + like.size) % PLACES
        errors = lax.slice(self._errors, (start,), (start + like.size,)).reshape(like.shape).astype(like.dtype)
        return errors * (1 + 1j) if jnp.issubdtype(like.dtype, jnp.complexfloating) else errors


def _largest_of_matrix(operand: jax.Array) -> jax.Array:
    """The largest absolute value in the last two axes, which are those of a matrix."""
    axes = tuple(range(operand.ndim))[-2:]
    return jnp.max(jnp.abs(operand), axes, keepdims=True, initial=0)
