"""What rounding alone does to a result, found by trying: every operation of a program a little wrong at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from functional_nn.jaxprs.equations import bind, scan_sizes

SIZE = 2.0**-30
"""Of the relative errors that are made: far above rounding in float64, small enough for all to stay linear."""
RUNS = 4

SUMS = frozenset(("conv_general_dilated", "cumsum", "dot_general", "reduce_sum", "reduce_window_sum"))
"""Operations that are rounded at every term they add."""
ROUNDED = SUMS | {
    *("acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma"),
    *("div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic"),
    *("mul", "pow", "rsqrt", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh"),
}
"""Operations whose results are rounded; maxima, choices and movements are exact, and stay consistent."""
CALLS = ("jaxpr", "call_jaxpr")


def rounding(function: Callable[..., Any], *arguments: Any) -> Any:
    """How far each element of a result moves, per unit of relative error in every operation (Monte Carlo arithmetic).

    Each operation's result is multiplied by 1 ± 2⁻³⁰, with signs drawn for every element, and to a sum ±2⁻³⁰ times the
    sum of absolute terms is added. This is the largest change of the result in four runs, divided by 2⁻³⁰. Times the
    unit roundoff it is what rounding can do to a program that computes
    the same in the same way, whether through terms that cancel or through an argument that is ill-conditioned.

    >>> with jax.enable_x64(True):
    ...     size = float(rounding(lambda x: (x + 1e6) - 1e6, jnp.array(1.0)))
    >>> 1e6 <= size <= 2.1e6
    True

    References:
        Parker 1997, "Monte Carlo arithmetic: exploiting randomness in floating-point arithmetic".
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    original = _evaluate(program, leaves, None)
    moved = jax.vmap(lambda run: _evaluate(program, leaves, Signs(run)))(jnp.arange(RUNS))
    sizes = [jnp.max(jnp.abs(many - one[None]), 0) / SIZE for many, one in zip(moved, original, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(shape), sizes)


class Signs:
    """Signs for every element of every result: drawn when the program is traced, chosen by the number of the run."""

    def __init__(self, run: jax.Array):
        self._run, self._random = run, np.random.default_rng(0)

    def __call__(self, like: jax.Array) -> jax.Array:
        drawn = self._random.integers(0, 2, (RUNS, *like.shape), np.int8) * 2 - 1
        return jnp.asarray(drawn, jnp.int8)[self._run].astype(like.dtype)


def _evaluate(program: Any, arguments: Sequence[Any], signs: Signs | None) -> list[Any]:
    jaxpr, constants = (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, [])
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(variable: Any) -> Any:
        return (
            jnp.asarray(variable.val, jnp.result_type(variable.aval))
            if isinstance(variable, Literal)
            else known[variable]
        )

    for equation in jaxpr.eqns:
        results = _equation(equation, list(map(read, equation.invars)), signs)
        known.update(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _equation(equation: Any, values: list[Any], signs: Signs | None) -> list[Any]:
    name, parameters = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(parameters, values, signs)
    if name == "cond":
        branches = [lambda given, branch=branch: _evaluate(branch, given, signs) for branch in parameters["branches"]]
        return lax.switch(values[0], branches, values[1:])
    for parameter in CALLS:
        if parameter in parameters and name != "while":
            return _evaluate(parameters[parameter], values, signs)
    results = bind(equation, values)
    if signs is None or name not in ROUNDED or not jnp.issubdtype(jnp.result_type(results[0]), jnp.floating):
        return results
    size = results[0] if name not in SUMS else bind(equation, list(map(jnp.abs, values)))[0]
    return [jnp.where(jnp.isfinite(size), results[0] + SIZE * signs(results[0]) * size, results[0])]


def _scan(parameters: dict[str, Any], values: list[Any], signs: Signs | None) -> list[Any]:
    outside, carried = scan_sizes(parameters)

    def step(carry: Any, x: Any) -> Any:
        results = _evaluate(parameters["jaxpr"], [*values[:outside], *carry, *x], signs)
        return results[:carried], results[carried:]

    first, xs = values[outside : outside + carried], values[outside + carried :]
    carry, ys = lax.scan(step, first, xs, length=parameters["length"], reverse=parameters["reverse"])
    return [*carry, *ys]
