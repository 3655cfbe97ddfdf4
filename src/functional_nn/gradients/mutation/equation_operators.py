"""Mutation operators for the equations of a formula: one entry of ``RULES`` for each kind of equation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from functional_nn.gradients.mutation.alternatives import (
    Alternative,
    change_operand,
    change_results,
    replace_result,
    shift_along,
)
from functional_nn.gradients.mutation.movement_operators import (
    additions_at,
    branches,
    joined,
    paddings,
    parted,
    scans,
    slices,
    transpositions,
)
from functional_nn.gradients.mutation.sites import Site, is_boolean, literal, shape_of
from functional_nn.jaxprs.evaluate import bind

ORDINALS = ("first", "second", "third", "fourth")
TINY, HUGE = 1e-3, 1e4
"""A number smaller or larger than this is a guard: it prevents a division by zero, or replaces minus infinity."""


def alternatives(site: Site) -> Iterator[Alternative]:
    """Yields all errors to plant in an equation."""
    equation = site.equation
    rule = RULES.get(equation.primitive.name)
    if rule:
        yield from rule(equation)
    for number, variable in enumerate(equation.invars):
        value = literal(variable)
        if value is not None:
            yield from other_literals(equation, number, value)
    if equation.primitive.name in COMPARISONS and equation.outvars[0] not in site.only_selects:
        yield replace_result("inverted", lambda *operands: ~bind(equation, operands)[0])


def other_literals(equation: JaxprEqn, number: int, value: float) -> Iterator[Alternative]:
    """Yields errors that replace a number which is written in the formula.

    Guards are not changed. An error that another operator makes already is left out.
    """
    name = equation.primitive.name
    neutral = {"mul": (0.0, 1.0, 2 * value), "div": (0.0, 1.0), "add": (0.0,), "sub": (0.0,)}.get(name, ())
    if value == 0 and name not in ("add", "sub", "mul", "add_any"):
        others = [1.0]
    elif not TINY <= abs(value) <= HUGE:
        others = []
    elif value == round(value):
        others = [value + 1, value - 1]
    elif name in COMPARISONS:
        # A threshold that is larger by a millionth cannot be detected: no point lies in between.
        others = [2 * value]
    else:
        others = [value * (1 + 1e-6), 2 * value]
    for other in others:
        if other not in neutral:
            became = f"{value:.6g} × (1 + 1e-6)" if other == value * (1 + 1e-6) else f"{other:.6g}"
            yield change_operand(
                number, f"{value:.6g} became {became}", lambda array, other=other: jnp.full_like(array, other)
            )


def dropped(neutral: float, word: str) -> Callable[[JaxprEqn], Iterator[Alternative]]:
    """Makes the rule that replaces each operand in turn by the neutral number, unless it has that value already."""

    def rule(equation: JaxprEqn) -> Iterator[Alternative]:
        for number, variable in enumerate(equation.invars):
            # In x + x or x · x, dropping the second operand would be the same error as dropping the first.
            if literal(variable) != neutral and (number == 0 or variable is not equation.invars[0]):
                yield change_operand(number, f"{ORDINALS[number]} {word} dropped", lambda a: jnp.full_like(a, neutral))

    return rule


def sums(equation: JaxprEqn) -> Iterator[Alternative]:
    yield from dropped(0, "term")(equation)
    if literal(equation.invars[1]) != 0 and literal(equation.invars[0]) != 0:
        sign, other = ("−", lax.add) if equation.primitive.name == "sub" else ("+", lax.sub)
        yield replace_result(f"{sign} became {'+' if sign == '−' else '−'}", other)


def products(equation: JaxprEqn) -> Iterator[Alternative]:
    if 0 in map(literal, equation.invars):
        return  # the product is also 0 without the other factor
    yield from dropped(1, "factor")(equation)
    yield change_results("factor 2", lambda array: 2 * array)


def quotients(equation: JaxprEqn) -> Iterator[Alternative]:
    numerator, divisor = equation.invars
    if literal(divisor) != 1:
        yield change_operand(1, "divisor dropped", jnp.ones_like)
        yield replace_result("inverted", lambda a, b: lax.div(b, a))
    if literal(numerator) != 1:
        yield change_operand(0, "numerator dropped", jnp.ones_like)


def general_powers(equation: JaxprEqn) -> Iterator[Alternative]:
    yield change_operand(1, "exponent + 1", lambda y: y + 1)
    yield change_operand(1, "exponent − 1", lambda y: y - 1)


def powers(equation: JaxprEqn) -> Iterator[Alternative]:
    exponent = equation.params["y"]
    for other in (exponent - 1, exponent + 1):
        yield replace_result(f"power {exponent} became {other}", lambda a, other=other: bind(equation, [a], y=other)[0])


def extremes(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``max`` and ``min``. A guard is left out: it has no effect at the points that are tried."""
    name = equation.primitive.name
    values = [literal(variable) for variable in equation.invars]
    if any(value is not None and value != 0 and not TINY <= abs(value) <= HUGE for value in values):
        return
    for number in (0, 1):
        yield replace_result(f"{ORDINALS[number]} dropped", lambda *pair, kept=1 - number: pair[kept])
    yield replace_result(f"became {'min' if name == 'max' else 'max'}", lax.min if name == "max" else lax.max)


def selections(equation: JaxprEqn) -> Iterator[Alternative]:
    if len(equation.invars) != 3 or equation.invars[1] is equation.invars[2]:
        return
    yield replace_result("branches exchanged", lambda mask, no, yes: lax.select_n(mask, yes, no))
    yield replace_result("always the first branch", lambda mask, no, yes: no)
    yield replace_result("always the second branch", lambda mask, no, yes: yes)


def logic(equation: JaxprEqn) -> Iterator[Alternative]:
    if is_boolean(equation.outvars[0]):
        for number in (0, 1):
            yield replace_result(f"{ORDINALS[number]} condition dropped", lambda *pair, kept=1 - number: pair[kept])


def reductions(equation: JaxprEqn) -> Iterator[Alternative]:
    axes, shape = equation.params["axes"], shape_of(equation.invars[0])
    count = prod(shape[axis] for axis in axes)
    if count > 1:
        axis = next(axis for axis in axes if shape[axis] > 1)
        yield change_results("mean in place of the sum", lambda array: array / count)
        yield change_operand(0, "last term left out", lambda array: array.at[last(axis)].set(0))


def last(axis: int) -> tuple[slice | int, ...]:
    """Makes the index of the last elements along an axis."""
    return (*[slice(None)] * axis, -1)


def extreme_reductions(equation: JaxprEqn) -> Iterator[Alternative]:
    axes = equation.params["axes"]
    other = jnp.min if equation.primitive.name == "reduce_max" else jnp.max
    if prod(shape_of(equation.invars[0])[axis] for axis in axes) > 1:
        yield replace_result(f"became {other.__name__}", lambda array: other(array, axes))


def cumulations(equation: JaxprEqn) -> Iterator[Alternative]:
    if shape_of(equation.invars[0])[equation.params["axis"]] > 1:
        other = not equation.params["reverse"]
        yield replace_result("direction reversed", lambda array: bind(equation, [array], reverse=other)[0])


def matrix_products(equation: JaxprEqn) -> Iterator[Alternative]:
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    yield change_results("left out", jnp.zeros_like)
    for number, variable in enumerate(equation.invars):
        shape = shape_of(variable)
        for one, other in combinations(range(len(shape)), 2):
            if shape[one] == shape[other] > 1:
                text = f"{ORDINALS[number]} operand's axes {one} and {other} exchanged"
                yield change_operand(number, text, lambda a, one=one, other=other: jnp.swapaxes(a, one, other))
    for axis in (*contracted, *batch):
        if shape_of(equation.invars[0])[axis] > 1:
            yield change_operand(0, f"first operand off by one along axis {axis}", shift_along(axis))


def convolutions(equation: JaxprEqn) -> Iterator[Alternative]:
    dimensions = equation.params["dimension_numbers"]
    image, kernel = (shape_of(variable) for variable in equation.invars)
    yield change_results("left out", jnp.zeros_like)
    for axis in dimensions.lhs_spec[2:]:
        if image[axis] > 1:
            yield change_operand(0, f"image off by one along axis {axis}", shift_along(axis))
    for axis in dimensions.rhs_spec[2:]:
        if kernel[axis] > 1:
            yield change_operand(1, f"kernel flipped along axis {axis}", lambda array, axis=axis: jnp.flip(array, axis))


def unary(**siblings: Callable[[jax.Array], jax.Array]) -> Callable[[JaxprEqn], Iterable[Alternative]]:
    """Makes the rule that drops a function of one operand, or replaces it by a similar function."""
    found = [replace_result("dropped", lambda array: array)]
    found += [replace_result(f"became {name}", function) for name, function in siblings.items()]
    return lambda equation: found


RULES: dict[str, Callable[[JaxprEqn], Iterable[Alternative]]] = {
    "add": sums,
    "add_any": sums,
    "sub": sums,
    "mul": products,
    "div": quotients,
    "pow": general_powers,
    "integer_pow": powers,
    "square": unary(),
    "max": extremes,
    "min": extremes,
    "select_n": selections,
    "and": logic,
    "or": logic,
    "reduce_sum": reductions,
    "reduce_max": extreme_reductions,
    "reduce_min": extreme_reductions,
    "dot_general": matrix_products,
    "conv_general_dilated": convolutions,
    "transpose": transpositions,
    "rev": unary(),
    "slice": slices,
    "dynamic_slice": slices,
    "gather": slices,
    "pad": paddings,
    "concatenate": joined,
    "stack": joined,
    "split": parted,
    "unstack": parted,
    "scatter-add": additions_at,
    "scatter_add": additions_at,
    "scan": scans,
    "cond": branches,
    "cumsum": cumulations,
    "cumprod": cumulations,
    "cummax": cumulations,
    "cummin": cumulations,
    "cumlogsumexp": cumulations,
    "neg": unary(),
    "abs": unary(),
    "sign": unary(),
    "exp": unary(expm1=jnp.expm1),
    "exp2": unary(exp=jnp.exp),
    "expm1": unary(exp=jnp.exp),
    "log": unary(log1p=jnp.log1p),
    "log1p": unary(log=jnp.log),
    "tanh": unary(logistic=jax.nn.sigmoid),
    "logistic": unary(tanh=jnp.tanh),
    "sqrt": unary(rsqrt=lax.rsqrt),
    "rsqrt": unary(sqrt=jnp.sqrt),
    "sin": unary(cos=jnp.cos),
    "cos": unary(sin=jnp.sin),
    "erf": unary(erfc=lax.erfc),
    "erfc": unary(erf=lax.erf),
}

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
