"""Errors that people make in formulas: the equations of a traced formula where they fit, and the changes there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations, pairwise
from math import prod
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from functional_nn.jaxprs import walk
from functional_nn.jaxprs.evaluate import EquationPath, bind
from functional_nn.layers.combinators.hand_vjp import ByFormula

Variable: TypeAlias = Var | Literal

COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))
SELECTION = COMPARISONS | {"select_n", "broadcast_in_dim", "convert_element_type"}
"""Operations that select values, and the other operations inside ``jnp.where``."""


def is_floating(variable: Variable) -> bool:
    return jnp.issubdtype(walk.array_type(variable).dtype, jnp.floating)


def is_boolean(variable: Variable) -> bool:
    return walk.array_type(variable).dtype == bool


def literal(variable: Variable) -> float | None:
    """The value of a floating-point number that is written in the formula; None for a variable."""
    return float(variable.val) if isinstance(variable, Literal) and is_floating(variable) else None


def shape_of(variable: Variable) -> tuple[int, ...]:
    return walk.array_type(variable).shape


def bodies(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The programs inside an equation that can be changed safely. A ``while`` with an error might never end."""
    name = equation.primitive.name
    if name in walk.CALLS:
        return [walk.called_program(equation)]
    if name == "scan":
        return [walk.scan_parts(equation).body]
    return walk.branches(equation) if name == "cond" else []


class Site(NamedTuple):
    """An equation with floating-point or boolean results.

    Args:
        path: its path in the program.
        equation: the equation.
        place: the source line that it comes from, if it is known.
        in_library: whether it is inside a function of JAX that has a guard.
    """

    path: EquationPath
    equation: JaxprEqn
    place: walk.SourceLine | None
    in_library: bool


def sites(
    program: ClosedJaxpr,
    path: EquationPath = (),
    library_place: walk.SourceLine | None = None,
    in_library: bool = False,
) -> Iterator[Site]:
    """Yields all equations with floating-point or boolean results. Inner equations follow their outer equation.

    Equations of a child's formula, as in ``compose``, are left out: JAX gives all of them the place of the child's call
    in place of their own. A comparison of the child itself plants errors in them.

    Args:
        program: the program, without equations that no result needs.
        path: the path of the program.
        library_place: if the program is one of JAX's own functions, the place where it is called.
        in_library: as in ``Site``.
    """
    for number, equation in enumerate(program.jaxpr.eqns):
        place = walk.place_of(equation)
        is_of_child = place is not None and place.function == ByFormula.__call__.__qualname__
        if is_of_child or not any(is_floating(variable) or is_boolean(variable) for variable in equation.outvars):
            continue
        here, place = (*path, number), library_place or place
        yield Site(here, equation, place, in_library)
        for inner_number, inner in enumerate(bodies(equation)):
            of_jax = walk.is_of_jax(inner)
            inside = of_jax and (in_library or has_guard(equation))
            yield from sites(inner, (*here, inner_number), place if of_jax else library_place, inside)


def has_guard(equation: JaxprEqn) -> bool:
    """Whether an equation is a call with a selection among others, such as the rule for infinity in ``softplus``.

    A call that does nothing but select, as ``jnp.where``, is no guard.
    """
    programs = walk.inner_programs(equation)
    names = {inner.primitive.name for program in programs for inner in walk.all_equations(program)}
    return equation.primitive.name in walk.CALLS and "select_n" in names and not names <= SELECTION


Arrays: TypeAlias = list[jax.Array]
Change: TypeAlias = Callable[[jax.Array], jax.Array]


class Alternative(NamedTuple):
    """One error that a person could make. It changes the operands or the results of an equation.

    Args:
        text: the error in words.
        before: ``before(operands)`` returns the changed operands.
        after: ``after(operands, results)`` returns the changed results.
    """

    text: str
    before: Callable[[Arrays], Arrays] | None = None
    after: Callable[[Arrays, Arrays], Arrays] | None = None


def change_operand(number: int, text: str, change: Change) -> Alternative:
    """Makes an error that changes one operand."""
    return Alternative(text, before=lambda operands: replaced(operands, number, change(operands[number])))


def replace_result(text: str, function: Callable[..., jax.Array]) -> Alternative:
    """Makes an error that replaces the only result by another function of the operands."""

    def after(operands: Arrays, results: Arrays) -> Arrays:
        return [jnp.broadcast_to(function(*operands), results[0].shape)]

    return Alternative(text, after=after)


def change_result(number: int, text: str, change: Change) -> Alternative:
    """Makes an error that changes one result."""
    return Alternative(text, after=lambda _, results: replaced(results, number, change(results[number])))


def replaced(values: Sequence[jax.Array], number: int, value: jax.Array) -> Arrays:
    """Copies a list of values and replaces the value at one index."""
    return [*values[:number], value, *values[number + 1 :]]


def exchanged(one: int, other: int, values: Arrays) -> Arrays:
    """Copies a list of values and swaps two of them."""
    return replaced(replaced(values, one, values[other]), other, values[one])


def shift_along(axis: int) -> Change:
    """Makes the function that shifts an array by one along an axis. The last element becomes the first."""
    return lambda array: jnp.roll(array, 1, axis)


def shifted(equation: JaxprEqn, number: int, axes: Iterable[int], name: str = "") -> Iterator[Alternative]:
    """Yields errors that shift an operand by one along each of these axes."""
    for axis in axes:
        if shape_of(equation.invars[number])[axis] > 1:
            yield change_operand(number, f"{name}off by one along axis {axis}", shift_along(axis))


def slices(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``slice``, ``dynamic_slice`` and ``gather``: the neighbor of each element is read instead."""
    taken = equation.params.get("slice_sizes") or shape_of(equation.outvars[0])
    pairs = zip(shape_of(equation.invars[0]), taken, strict=True)
    yield from shifted(equation, 0, [axis for axis, (size, part) in enumerate(pairs) if part < size])


def paddings(equation: JaxprEqn) -> Iterator[Alternative]:
    for axis, ((low, high, _), size) in enumerate(
        zip(equation.params["padding_config"], shape_of(equation.outvars[0]), strict=True)
    ):
        if (low or high) and size > 1:
            yield change_result(0, f"off by one along axis {axis}", shift_along(axis))


def parts(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``concatenate``, ``stack`` and their inverses: two neighboring parts of a shape are swapped."""
    joins = equation.primitive.name in ("concatenate", "stack")
    for number, (one, other) in enumerate(pairwise(equation.invars if joins else equation.outvars)):
        if shape_of(one) == shape_of(other) and one is not other:
            text, swap = f"parts {number + 1} and {number + 2} exchanged", partial(exchanged, number, number + 1)
            yield Alternative(text, swap) if joins else Alternative(text, after=lambda _, made, swap=swap: swap(made))


def additions_at(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``scatter-add``: a repeated index counts only once, or the updates are shifted by one."""
    numbers, mode = equation.params["dimension_numbers"], equation.params["mode"]
    number_of_indices = prod(shape_of(equation.invars[1])[:-1])

    def overwriting(array: jax.Array, indices: jax.Array, updates: jax.Array) -> jax.Array:
        return lax.scatter(array, indices, updates, numbers, mode=mode)

    if number_of_indices > 1:  # a single index cannot be repeated
        yield replace_result("repeated indices overwrite each other", overwriting)
    axes = set(range(len(shape_of(equation.invars[2])))) - set(numbers.update_window_dims)
    yield from shifted(equation, 2, sorted(axes), "updates ")


def scans(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``scan``: time reversed, an input or output one step off, or a carry that starts from 0."""
    scan = walk.scan_parts(equation)
    if scan.length < 2:
        return
    first_input = scan.constants + scan.carried

    def reversed_from(start: int, values: Arrays) -> Arrays:
        return [*values[:start], *(jnp.flip(value, 0) for value in values[start:])]

    yield Alternative(
        "the loop runs in the other direction",
        before=lambda operands: reversed_from(first_input, operands),
        after=lambda _, results: reversed_from(scan.carried, results),
    )
    for number in range(first_input, len(equation.invars)):
        if is_floating(equation.invars[number]):
            yield change_operand(number, f"input {number - first_input + 1} one time step off", shift_along(0))
    for number in range(scan.carried, len(equation.outvars)):
        if is_floating(equation.outvars[number]):
            yield change_result(number, f"output {number - scan.carried + 1} one time step off", shift_along(0))
    for number in range(scan.carried):
        start = equation.invars[scan.constants + number]
        if is_floating(start) and literal(start) != 0:
            yield change_operand(scan.constants + number, f"carry {number + 1} starts from 0", jnp.zeros_like)


def exchanged_branches(equation: JaxprEqn) -> Iterator[Alternative]:
    if len(equation.params["branches"]) == 2:
        yield change_operand(0, "branches exchanged", lambda index: 1 - index)


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
    if equation.primitive.name in COMPARISONS:
        yield replace_result("inverted", lambda *operands: ~bind(equation, operands)[0])


def other_literals(equation: JaxprEqn, number: int, value: float) -> Iterator[Alternative]:
    """Yields errors that replace a number which is written in the formula.

    Guards are not changed. An error that another operator makes already is left out.
    """
    name = equation.primitive.name
    if name == "pad" and max(map(max, equation.params["padding_config"])) <= 0:
        return  # it cuts elements off, and adds none
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


def dropped(equation: JaxprEqn, neutral: float, text: str) -> Iterator[Alternative]:
    """Yields errors that replace an operand by the neutral number, unless it has that value already."""
    for number, variable in enumerate(equation.invars):
        # In x + x or x · x, dropping the second operand would be the same error as dropping the first.
        if literal(variable) != neutral and (number == 0 or variable is not equation.invars[0]):
            yield change_operand(number, f"{ORDINALS[number]} {text}", lambda a: jnp.full_like(a, neutral))


def sums(equation: JaxprEqn) -> Iterator[Alternative]:
    yield from dropped(equation, 0, "term dropped")
    if literal(equation.invars[1]) != 0 and literal(equation.invars[0]) != 0:
        sign, other = ("−", lax.add) if equation.primitive.name == "sub" else ("+", lax.sub)
        yield replace_result(f"{sign} became {'+' if sign == '−' else '−'}", other)


def products(equation: JaxprEqn) -> Iterator[Alternative]:
    if 0 in map(literal, equation.invars):
        return  # the product is also 0 without the other factor
    yield from dropped(equation, 1, "factor dropped")
    yield change_result(0, "factor 2", lambda array: 2 * array)


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
    yield from dropped(equation, -jnp.inf if name == "max" else jnp.inf, "dropped")
    yield replace_result(f"became {'min' if name == 'max' else 'max'}", lax.min if name == "max" else lax.max)


def selections(equation: JaxprEqn) -> Iterator[Alternative]:
    if len(equation.invars) != 3 or equation.invars[1] is equation.invars[2]:
        return
    yield replace_result("branches exchanged", lambda mask, no, yes: lax.select_n(mask, yes, no))
    yield replace_result("as if the condition were always false", lambda mask, no, yes: no)
    yield replace_result("as if the condition were always true", lambda mask, no, yes: yes)


def logic(equation: JaxprEqn) -> Iterator[Alternative]:
    if is_boolean(equation.outvars[0]):
        yield from dropped(equation, equation.primitive.name == "and", "condition dropped")


def reductions(equation: JaxprEqn) -> Iterator[Alternative]:
    axes, shape = equation.params["axes"], shape_of(equation.invars[0])
    count = prod(shape[axis] for axis in axes)
    if count > 1:
        axis = next(axis for axis in axes if shape[axis] > 1)
        yield change_result(0, "mean in place of the sum", lambda array: array / count)
        yield change_operand(0, "last term left out", lambda array: jnp.where(is_last(array, axis), 0, array))


def is_last(array: jax.Array, axis: int) -> jax.Array:
    """Which elements are the last ones along an axis."""
    return lax.broadcasted_iota(int, array.shape, axis) == array.shape[axis] - 1


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
    yield change_result(0, "left out", jnp.zeros_like)
    for number, variable in enumerate(equation.invars):
        shape = shape_of(variable)
        for one, other in combinations(range(len(shape)), 2):
            if shape[one] == shape[other] > 1:
                text = f"{ORDINALS[number]} operand's axes {one} and {other} exchanged"
                yield change_operand(number, text, lambda a, one=one, other=other: jnp.swapaxes(a, one, other))
    yield from shifted(equation, 0, (*contracted, *batch), "first operand ")


def convolutions(equation: JaxprEqn) -> Iterator[Alternative]:
    dimensions = equation.params["dimension_numbers"]
    yield change_result(0, "left out", jnp.zeros_like)
    yield from shifted(equation, 0, dimensions.lhs_spec[2:], "image ")
    for axis in dimensions.rhs_spec[2:]:
        if shape_of(equation.invars[1])[axis] > 1:
            yield change_operand(1, f"kernel flipped along axis {axis}", lambda array, axis=axis: jnp.flip(array, axis))


def unary(**siblings: Callable[[jax.Array], jax.Array]) -> Callable[[JaxprEqn], Iterable[Alternative]]:
    """Makes the rule that drops a function of one operand, if the shape stays, or replaces it by a similar function."""
    found = [replace_result("dropped", lambda array: array)]
    found += [replace_result(f"became {name}", function) for name, function in siblings.items()]
    return lambda equation: found if shape_of(equation.invars[0]) == shape_of(equation.outvars[0]) else found[1:]


RULES: dict[str, Callable[[JaxprEqn], Iterable[Alternative]]] = {
    **dict.fromkeys(("add", "add_any", "sub"), sums),
    "mul": products,
    "div": quotients,
    "pow": general_powers,
    "integer_pow": powers,
    **dict.fromkeys(("max", "min"), extremes),
    "select_n": selections,
    **dict.fromkeys(("and", "or"), logic),
    "reduce_sum": reductions,
    **dict.fromkeys(("reduce_max", "reduce_min"), extreme_reductions),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), cumulations),
    "dot_general": matrix_products,
    "conv_general_dilated": convolutions,
    **dict.fromkeys(("slice", "dynamic_slice", "gather"), slices),
    "pad": paddings,
    **dict.fromkeys(("concatenate", "stack", "split", "unstack"), parts),
    **dict.fromkeys(("scatter-add", "scatter_add"), additions_at),
    "scan": scans,
    "cond": exchanged_branches,
    **dict.fromkeys(("square", "rev", "neg", "abs", "sign", "transpose"), unary()),
    "exp": unary(expm1=jnp.expm1),
    **dict.fromkeys(("exp2", "expm1"), unary(exp=jnp.exp)),
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


def cotangent_alternatives(
    bars: Sequence[jax.ShapeDtypeStruct], batch: int | None
) -> Iterator[tuple[int, Alternative]]:
    """Yields the errors to plant in the formula's cotangents (bars), each with the index of its bar.

    Args:
        bars: the shapes and types of the cotangents that the formula returns. Only floating-point ones are changed.
        batch: the batch size, by which a mean would divide; None if there is no batch.
    """
    numbers = [number for number, bar in enumerate(bars) if jnp.issubdtype(bar.dtype, jnp.floating) and bar.size]
    for number in numbers:
        for text, change in changes(bars[number].shape, batch):
            yield number, change_result(number, text, change)
        same = [other for other in numbers if other > number and bars[other].shape == bars[number].shape]
        if same and bars[same[0]].dtype == bars[number].dtype:
            text, swap = f"exchanged with the bar number {same[0] + 1}", partial(exchanged, number, same[0])
            yield number, Alternative(text, after=lambda _, made, swap=swap: swap(made))


def changes(shape: tuple[int, ...], batch: int | None) -> Iterator[tuple[str, Change]]:
    """Yields the errors for a bar of this shape: the error in words, and the function that makes it."""
    yield "sign flipped", jnp.negative
    yield "factor 2", lambda bar: 2 * bar
    yield "left out", jnp.zeros_like
    yield "largest component × (1 + 1e-6)", off_by_a_millionth
    if prod(shape) > 1:
        yield "middle component × (1 + 1e-6)", lambda bar: off_by_a_millionth(bar, middle=True)
    if batch is not None:
        yield f"divided by the batch size {batch}", lambda bar: bar / batch
        yield f"multiplied by the batch size {batch}", lambda bar: bar * batch
    for axis, size in enumerate(shape):
        if size > 1:
            yield f"off by one along axis {axis}", shift_along(axis)
    for one, other in combinations(range(len(shape)), 2):
        if shape[one] == shape[other] > 1:
            yield f"axes {one} and {other} exchanged", lambda bar, one=one, other=other: jnp.swapaxes(bar, one, other)
    yield from gate_exchanges(shape)


def gate_exchanges(shape: tuple[int, ...]) -> Iterator[tuple[str, Change]]:
    """Yields errors that swap neighboring halves, thirds or quarters of the last axis, as if gates were swapped."""
    for parts, word in ((2, "halves"), (3, "thirds"), (4, "quarters")):
        if shape and shape[-1] % parts == 0 and shape[-1] > 2:
            for first in range(parts - 1):
                yield f"{word} {first + 1} and {first + 2} exchanged", partial(swapped, parts=parts, first=first)


def swapped(bar: jax.Array, *, parts: int, first: int) -> jax.Array:
    """Swaps one of the equal parts of the last axis with the next one."""
    return jnp.concatenate(exchanged(first, first + 1, jnp.split(bar, parts, axis=-1)), axis=-1)


def off_by_a_millionth(bar: jax.Array, *, middle: bool = False) -> jax.Array:
    """Makes one component wrong: the largest one, or the one whose size is nearest to the mean size of those not 0."""
    # Sorting and indexing would take most of the time of compiling all mutants. Without a comparison for equality, the
    # program is compiled sooner, and it does not matter how it rounds.
    size = jnp.abs(bar)
    slack = 1e-9 * jnp.max(size)
    if middle:
        mean = jnp.sum(size) / jnp.maximum(jnp.sum(size > 0), 1).astype(bar.dtype)
        size = jnp.where(size > 0, -jnp.abs(size - mean), -jnp.inf)
    return jnp.where(size >= jnp.max(size) - slack, jnp.asarray(1 + 1e-6, bar.dtype), 1) * bar
