"""Floating-point operations, counted from the traced program.

A multiplication and an addition count one each, so a product of (m, k) and (k, n) counts 2 m k n. Elementwise
operations count one per output element, transcendental ones too; reductions one per input element; what only moves,
compares or converts counts nothing, and neither does what no result needs. The body of a ``scan`` counts as often as it
runs, that of a ``while`` once, and of a ``cond`` the branch that has most. A convolution counts the products of every
window with its weights, padding included; the holes that a transposed convolution's stride leaves between its inputs
count nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from functional_nn.jaxprs.walk import inner_programs, times, trace, within

ELEMENTWISE = frozenset(
    (
        *("add", "add_any", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "floor", "ceil", "round"),
        *("pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
        *("logistic", "erf", "erfc", "erf_inv"),
    )
)
REDUCTIONS = frozenset(
    (
        *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"),
        *("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"),
    )
)
OVER_WINDOWS = frozenset(("reduce_window_sum", "reduce_window_max", "reduce_window_min"))
ADDING_UP = frozenset(("scatter-add", "scatter_add", "scatter-mul", "scatter_mul"))


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """The floating-point operations of one call; ``arguments`` may be shapes (``jax.ShapeDtypeStruct``).

    >>> count_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    return flops_by_scope(trace(function, *arguments)).total()


def flops_by_scope(program: Any, scope: str = "") -> Counter[str]:
    """The operations under each name stack (``chain_0/dense_1``) of a traced program."""
    counts: Counter[str] = Counter()
    for equation in getattr(program, "jaxpr", program).eqns:
        own = within(scope, equation)
        inner = [flops_by_scope(program_inside, own) for program_inside in inner_programs(equation)]
        if not inner:
            counts[own] += flops_of(equation)
        elif equation.primitive.name == "cond":
            counts += max(inner, key=Counter.total)
        else:
            repeats = times(equation)
            counts += Counter({place: repeats * flops for part in inner for place, flops in part.items()})
    return counts


def flops_of(equation: Any) -> int:
    """The operations of one equation that has no inner program."""
    name = equation.primitive.name
    if name in ELEMENTWISE:
        out = equation.outvars[0].aval
        return out.size if jnp.issubdtype(out.dtype, jnp.floating) else 0
    if name in REDUCTIONS:
        size = equation.invars[0].aval.size
        return size if size > equation.outvars[0].aval.size or name.startswith("cum") else 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval
        return 2 * equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        weight, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
        products = equation.outvars[0].aval.size * weight.size // weight.shape[numbers.rhs_spec[0]]
        return 2 * products // math.prod(equation.params["lhs_dilation"])
    if name in OVER_WINDOWS:
        return equation.outvars[0].aval.size * math.prod(equation.params["window_dimensions"])
    if name == "select_and_scatter_add":
        return equation.invars[0].aval.size * (1 + math.prod(equation.params["window_dimensions"]))
    return equation.invars[2].aval.size if name in ADDING_UP else 0
