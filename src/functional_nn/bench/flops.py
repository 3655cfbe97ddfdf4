"""Floating-point operations, counted from the traced program.

A multiplication and an addition count one each, so a product of (m, k) and (k, n) counts 2 m k n. Elementwise
operations count one per output element, transcendental ones too; reductions one per input element; what only moves,
compares or converts counts nothing. The body of a ``scan`` counts as often as it runs, that of a ``while`` once, and
of a ``cond`` every branch. A convolution counts the products of every window with its weights, padding included; the
holes that a transposed convolution's stride leaves between its inputs count nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

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


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """The floating-point operations of one call; ``arguments`` may be shapes (``jax.ShapeDtypeStruct``).

    >>> count_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    return sum(flops_by_scope(jax.make_jaxpr(function)(*arguments)).values())


def flops_by_scope(program: Any) -> Counter[str]:
    """The operations under each name stack (``chain_0/dense_1``) of a traced program."""
    counts: Counter[str] = Counter()
    for scope, equation, repeats in equations(program):
        counts[scope] += repeats * _own_flops(equation)
    return counts


def equations(program: Any, scope: str = "", repeats: int = 1) -> Iterator[tuple[str, Any, int]]:
    """Every equation of a traced program, inner programs included, with its scope and how often it runs."""
    for equation in getattr(program, "jaxpr", program).eqns:
        own = "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)
        inner = list(_inner_programs(equation))
        if not inner:
            yield own, equation, repeats
        length = equation.params["length"] if equation.primitive.name == "scan" else 1
        for program_inside in inner:
            yield from equations(program_inside, own, repeats * length)


def _inner_programs(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for candidate in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(candidate, "jaxpr", candidate), "eqns"):
                yield candidate


def _own_flops(equation: Any) -> int:
    name = equation.primitive.name
    if name in ELEMENTWISE:
        out = equation.outvars[0].aval
        return out.size if jnp.issubdtype(out.dtype, jnp.floating) else 0
    if name in REDUCTIONS:
        return equation.invars[0].aval.size
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval
        return 2 * equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        weight, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
        products = equation.outvars[0].aval.size * weight.size // weight.shape[numbers.rhs_spec[0]]
        return 2 * products // math.prod(equation.params["lhs_dilation"])
    return 0
