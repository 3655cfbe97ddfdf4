"""What can be wrong at an equation of a formula: one entry of ``RULES`` for a kind of equation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from functional_nn.gradients.mutation.alternatives import (
    Alternative,
    exchanged,
    instead,
    operand,
    replaced,
    result,
    rolled,
)
from functional_nn.gradients.mutation.targets import Site, bodies, boolean, floating, reach
from functional_nn.jaxprs.equations import bind, scan_sizes

ORDINALS = ("first", "second", "third", "fourth")
TINY, HUGE = 1e-3, 1e4
"""Numbers below and above are guards: against a division by zero, for minus infinity."""


def literal(atom: Any) -> float | None:
    return float(atom.val) if isinstance(atom, Literal) and floating(atom) else None


def alternatives(site: Site) -> Iterator[Alternative]:
    """Everything that is made wrong at an equation."""
    equation = site.equation
    rule = RULES.get(equation.primitive.name)
    if rule:
        yield from rule(equation)
    for number, atom in enumerate(equation.invars):
        value = literal(atom)
        if value is not None:
            yield from other_literals(equation, number, value)
    if equation.primitive.name in COMPARISONS and equation.outvars[0] not in site.only_selects:
        yield instead("inverted", lambda *operands: ~bind(equation, operands)[0])


def other_literals(equation: JaxprEqn, number: int, value: float) -> Iterator[Alternative]:
    """A number written in the formula, mistaken; not where that is another operator's mutant, nor for guards."""
    name = equation.primitive.name
    neutral = {"mul": (0.0, 1.0, 2 * value), "div": (0.0, 1.0), "add": (0.0,), "sub": (0.0,)}.get(name, ())
    if value == 0 and name not in ("add", "sub", "mul", "add_any"):
        others = [1.0]
    elif not TINY <= abs(value) <= HUGE:
        others = []
    elif value == round(value):
        others = [value + 1, value - 1]
    else:
        others = [value * (1 + 1e-6), 2 * value]
    for other in others:
        if other not in neutral:
            text = f"{value:.6g} became {value:.6g} × (1 + 1e-6)" if other == value * (1 + 1e-6) else None
            text = text or f"{value:.6g} became {other:.6g}"
            yield operand(number, text, lambda array, other=other: jnp.full_like(array, other))


def dropped(neutral: float, word: str) -> Callable[[JaxprEqn], Iterator[Alternative]]:
    """Each operand in turn replaced by the neutral number, except one that is that number already."""

    def rule(equation):
        for number, atom in enumerate(equation.invars):
            if literal(atom) != neutral and (number == 0 or atom is not equation.invars[0]):
                yield operand(number, f"{ORDINALS[number]} {word} dropped", lambda a: jnp.full_like(a, neutral))

    return rule


def sums(equation):
    yield from dropped(0, "term")(equation)
    if literal(equation.invars[1]) != 0 and literal(equation.invars[0]) != 0:
        sign, other = ("−", lax.add) if equation.primitive.name == "sub" else ("+", lax.sub)
        yield instead(f"{sign} became {'+' if sign == '−' else '−'}", other)


def products(equation):
    yield from dropped(1, "factor")(equation)
    yield result("factor 2", lambda array: 2 * array)


def quotients(equation):
    numerator, divisor = equation.invars
    if literal(divisor) != 1:
        yield operand(1, "divisor dropped", jnp.ones_like)
        yield instead("inverted", lambda a, b: lax.div(b, a))
    if literal(numerator) != 1:
        yield operand(0, "numerator dropped", jnp.ones_like)


def powers(equation):
    exponent = equation.params["y"]
    for other in (exponent - 1, exponent + 1):
        yield instead(f"power {exponent} became {other}", lambda a, other=other: bind(equation, [a], y=other)[0])


def extremes(equation):
    """``max`` and ``min``, except those with a guard, which never acts where the formula is tried."""
    name = equation.primitive.name
    guards = [
        value is not None and not TINY <= abs(value) <= HUGE and value != 0 for value in map(literal, equation.invars)
    ]
    if any(guards):
        return
    for number in (0, 1):
        yield instead(f"{ORDINALS[number]} dropped", lambda *pair, kept=1 - number: pair[kept])
    yield instead(f"became {'min' if name == 'max' else 'max'}", lax.min if name == "max" else lax.max)


def selections(equation):
    if len(equation.invars) != 3 or equation.invars[1] is equation.invars[2]:
        return
    yield instead("branches exchanged", lambda mask, no, yes: lax.select_n(mask, yes, no))
    yield instead("always the first branch", lambda mask, no, yes: no)
    yield instead("always the second branch", lambda mask, no, yes: yes)


def logic(equation):
    if boolean(equation.outvars[0]):
        for number in (0, 1):
            yield instead(f"{ORDINALS[number]} condition dropped", lambda *pair, kept=1 - number: pair[kept])


def reductions(equation):
    axes, shape = equation.params["axes"], equation.invars[0].aval.shape
    count = prod(shape[axis] for axis in axes)
    if count > 1:
        axis = next(axis for axis in axes if shape[axis] > 1)
        yield result("mean in place of the sum", lambda array: array / count)
        yield operand(0, "last term left out", lambda array: array.at[last(axis)].set(0))


def last(axis: int) -> tuple[Any, ...]:
    return (*[slice(None)] * axis, -1)


def extreme_reductions(equation):
    axes = equation.params["axes"]
    other = jnp.min if equation.primitive.name == "reduce_max" else jnp.max
    if prod(equation.invars[0].aval.shape[axis] for axis in axes) > 1:
        yield instead(f"became {other.__name__}", lambda array: other(array, axes))


def cumulations(equation):
    if equation.invars[0].aval.shape[equation.params["axis"]] > 1:
        other = not equation.params["reverse"]
        yield instead("direction reversed", lambda array: bind(equation, [array], reverse=other)[0])


def matrix_products(equation):
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    yield result("left out", jnp.zeros_like)
    for number, atom in enumerate(equation.invars):
        shape = atom.aval.shape
        for one, other in combinations(range(len(shape)), 2):
            if shape[one] == shape[other] > 1:
                text = f"{ORDINALS[number]} operand's axes {one} and {other} exchanged"
                yield operand(number, text, lambda a, one=one, other=other: jnp.swapaxes(a, one, other))
    for axis in (*contracted, *batch):
        if equation.invars[0].aval.shape[axis] > 1:
            yield operand(0, f"first operand off by one along axis {axis}", rolled(axis))


def convolutions(equation):
    dimensions = equation.params["dimension_numbers"]
    image, kernel = (atom.aval.shape for atom in equation.invars)
    yield result("left out", jnp.zeros_like)
    for axis in dimensions.lhs_spec[2:]:
        if image[axis] > 1:
            yield operand(0, f"image off by one along axis {axis}", rolled(axis))
    for axis in dimensions.rhs_spec[2:]:
        if kernel[axis] > 1:
            yield operand(1, f"kernel flipped along axis {axis}", lambda array, axis=axis: jnp.flip(array, axis))


def transpositions(equation):
    if equation.invars[0].aval.shape == equation.outvars[0].aval.shape:
        yield instead("dropped", lambda array: array)


def slices(equation):
    """``slice``, ``dynamic_slice`` and ``gather``: what is read stands one further."""
    taken = equation.params.get("slice_sizes") or equation.outvars[0].aval.shape
    for axis, (size, part) in enumerate(zip(equation.invars[0].aval.shape, taken, strict=True)):
        if part < size:
            yield operand(0, f"off by one along axis {axis}", rolled(axis))


def paddings(equation):
    for axis, ((low, high, _), size) in enumerate(
        zip(equation.params["padding_config"], equation.outvars[0].aval.shape, strict=True)
    ):
        if (low or high) and size > 1:
            yield result(f"off by one along axis {axis}", rolled(axis))


def joined(equation):
    """``concatenate`` and ``stack``: neighbors of one shape in each other's places."""
    for number, (one, other) in enumerate(pairwise(equation.invars)):
        if one.aval.shape == other.aval.shape and one is not other:
            yield exchanged(f"parts {number + 1} and {number + 2} exchanged", number, number + 1)


def parted(equation):
    """``split`` and ``unstack``."""
    for number, (one, other) in enumerate(pairwise(equation.outvars)):
        if one.aval.shape == other.aval.shape:
            yield exchanged(f"parts {number + 1} and {number + 2} exchanged", number, number + 1, results=True)


def additions_at(equation):
    """``scatter-add``: an index that comes twice counts once, or the numbers go to their neighbors."""
    numbers, mode = equation.params["dimension_numbers"], equation.params["mode"]

    def overwriting(array, indices, updates):
        return lax.scatter(array, indices, updates, numbers, mode=mode)

    yield instead("repeated indices overwrite each other", overwriting)
    shape = equation.invars[2].aval.shape
    for axis in range(len(shape)):
        if axis not in numbers.update_window_dims and shape[axis] > 1:
            yield operand(2, f"updates off by one along axis {axis}", rolled(axis))


def scans(equation):
    """The direction of time, what is read one step off, what is not carried from step to step."""
    consts, carried = scan_sizes(equation.params)
    if equation.params["length"] < 2:
        return

    def turned(values, start):
        return [*values[:start], *(jnp.flip(value, 0) for value in values[start:])]

    yield Alternative(
        "direction reversed",
        before=lambda operands: turned(operands, consts + carried),
        after=lambda _, results: turned(results, carried),
    )
    (body,) = bodies(equation)
    read = reach(body, [True] * len(equation.outvars))
    for number in range(consts + carried, len(equation.invars)):
        if floating(equation.invars[number]) and body.jaxpr.invars[number] in read:
            yield operand(number, f"input {number - consts - carried + 1} one time step off", rolled(0))
    for number in range(carried, len(equation.outvars)):
        if floating(equation.outvars[number]):
            change = lambda _, results, number=number: replaced(results, number, rolled(0)(results[number]))  # noqa: E731
            yield Alternative(f"output {number - carried + 1} one time step off", after=change)
    for number in range(carried):
        start = equation.invars[consts + number]
        if floating(start) and literal(start) != 0:
            yield operand(consts + number, f"carry {number + 1} starts from 0", jnp.zeros_like)


def branches(equation):
    if len(equation.params["branches"]) == 2:
        yield operand(0, "branches exchanged", lambda index: 1 - index)


def unary(**siblings: Callable[[jax.Array], jax.Array]) -> Callable[[JaxprEqn], Iterable[Alternative]]:
    """The function dropped, or a sibling in its place."""
    found = [instead("dropped", lambda array: array)]
    found += [instead(f"became {name}", function) for name, function in siblings.items()]
    return lambda equation: found


RULES: dict[str, Callable[[JaxprEqn], Iterable[Alternative]]] = {
    "add": sums,
    "add_any": sums,
    "sub": sums,
    "mul": products,
    "div": quotients,
    "pow": lambda equation: [operand(1, "exponent + 1", lambda y: y + 1), operand(1, "exponent − 1", lambda y: y - 1)],
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
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), cumulations),
    **dict.fromkeys(("neg", "abs", "sign"), unary()),
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
