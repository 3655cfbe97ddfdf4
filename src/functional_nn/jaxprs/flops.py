"""Floating-point operations, counted from the traced program.

A multiplication and an addition count one each, so a product of (m, k) and (k, n) counts 2 m k n. An elementwise
operation counts one per output element, even a transcendental one. A reduction counts one per input element. Moves,
comparisons and conversions count as 0. Equations that no result needs are left out. The body of a ``scan`` counts once
for each step, and the body of a ``while`` counts once. A ``cond`` counts as its branch with the most operations. A
convolution counts the products of every window with the weights, including padding, also where the platform computes it
by matrix products. The stride of a transposed convolution leaves holes between its inputs; they count as 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from functional_nn.jaxprs.inner_programs import TracedProgram, array_type, closed, counted_program, inner_programs
from functional_nn.jaxprs.walk import times, trace, within

ELEMENTWISE = frozenset(
    {"add", "add_any", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "floor", "ceil", "round"}
    | {"pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"}
    | {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"}
    | {"logistic", "erf", "erfc", "erf_inv"}
)
REDUCTIONS = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"}
    | {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}
)
OVER_WINDOWS = frozenset(("reduce_window_sum", "reduce_window_max", "reduce_window_min"))
ADDING_UP = frozenset(("scatter-add", "scatter_add", "scatter-mul", "scatter_mul"))


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """The floating-point operations of one call; ``arguments`` may be shapes (``jax.ShapeDtypeStruct``).

    >>> count_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    return flops_by_scope(trace(function, *arguments)).total()


def flops_by_scope(program: TracedProgram, scope: str = "") -> Counter[str]:
    """The operations under each name stack (``chain_0/dense_1``) of a traced program."""
    counts: Counter[str] = Counter()
    for equation in closed(program).jaxpr.eqns:
        place = within(scope, equation)
        counted = counted_program(equation)
        programs = inner_programs(equation) if counted is None else [counted]
        inner = [flops_by_scope(inner_program, place) for inner_program in programs]
        if not inner:
            counts[place] += flops_of(equation)
        elif equation.primitive.name == "cond":
            counts += max(inner, key=Counter.total)
        else:
            repeats = times(equation)
            counts += Counter({scope: repeats * flops for part in inner for scope, flops in part.items()})
    return counts


def flops_of(equation: JaxprEqn) -> int:
    """The operations of one equation that has no inner program."""
    name = equation.primitive.name
    operands = [array_type(variable) for variable in equation.invars]
    if not equation.outvars:
        return 0
    result = array_type(equation.outvars[0])
    if name in ELEMENTWISE:
        return result.size if jnp.issubdtype(result.dtype, jnp.floating) else 0
    if name in REDUCTIONS:
        is_running_total = name.startswith("cum")
        return operands[0].size if is_running_total or operands[0].size > result.size else 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * result.size * math.prod(operands[0].shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        weight, numbers = operands[1], equation.params["dimension_numbers"]
        products = result.size * weight.size // weight.shape[numbers.rhs_spec[0]]
        return 2 * products // math.prod(equation.params["lhs_dilation"])
    if name in OVER_WINDOWS:
        return result.size * math.prod(equation.params["window_dimensions"])
    if name == "select_and_scatter_add":
        return operands[0].size * (1 + math.prod(equation.params["window_dimensions"]))
    return operands[2].size if name in ADDING_UP else 0
