"""Sites of mutations: equations that affect the results of a traced formula, with their source lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, evaluate
from functional_nn.jaxprs.walk import (
    CALLS,
    all_equations,
    array_type,
    branches,
    called_program,
    inner_programs,
    is_file_of_jax,
    place_of,
    scan_parts,
    while_parts,
)

Variable: TypeAlias = Var | Literal
Follows: TypeAlias = Callable[[Variable, Variable], bool]
"""``follows(result, operand)``: whether a result counts as dependent on an operand of the same equation."""


DECIDING = frozenset(("select_n", "eq", "ne", "lt", "le", "gt", "ge"))
SELECTION = DECIDING | {"broadcast_in_dim", "convert_element_type"}
"""Operations that select values, and the other operations inside ``jnp.where``."""


FIXED = object()
"""Stands for a value that depends on one that is the same at every point."""


class Body(NamedTuple):
    """A program inside an equation, with the same results as the equation.

    Args:
        program: the program.
        carried: for the body of a loop, the number of values in its carry, which are its first results.
        first_carried: the index of the argument that holds the first value of the carry.
    """

    program: ClosedJaxpr
    carried: int = 0
    first_carried: int = 0


def is_floating(variable: Variable) -> bool:
    return jnp.issubdtype(array_type(variable).dtype, jnp.floating)


def is_boolean(variable: Variable) -> bool:
    return array_type(variable).dtype == bool


def literal(variable: Variable) -> float | None:
    """The value of a floating-point number that is written in the formula; None for a variable."""
    return float(variable.val) if isinstance(variable, Literal) and is_floating(variable) else None


def shape_of(variable: Variable) -> tuple[int, ...]:
    return array_type(variable).shape


def bodies(equation: JaxprEqn) -> list[Body]:
    """The programs inside an equation that can be changed safely."""
    name = equation.primitive.name
    if name in CALLS:
        return [Body(called_program(equation))]
    if name == "scan":
        scan = scan_parts(equation)
        return [Body(scan.body, scan.carried, scan.constants)]
    if name == "cond":
        return [Body(branch) for branch in branches(equation)]
    if name == "while" and always_ends(equation):
        return [while_body(equation)]
    return []


def while_body(equation: JaxprEqn) -> Body:
    loop = while_parts(equation)
    return Body(loop.body, len(equation.outvars), loop.body_constants)


def always_ends(equation: JaxprEqn) -> bool:
    """Whether a loop's condition depends on no floating-point number. Otherwise a mutant of it might never end."""
    loop = while_parts(equation)
    read = reach(Body(loop.condition), [True], anything)
    carry = loop.condition.jaxpr.invars[loop.condition_constants :]
    read_in_body = reach(while_body(equation), [variable in read for variable in carry], anything)
    return not any(is_floating(variable) for variable in read | read_in_body)


def anything(result: Variable, operand: Variable) -> bool:
    return True


def smoothly(result: Variable, operand: Variable) -> bool:
    """Whether a result depends on an operand, without comparisons of numbers, which are not smooth.

    A number depends on numbers and masks. A mask depends on masks only.
    """
    if is_boolean(result):
        return is_boolean(operand)
    return is_floating(result) and (is_floating(operand) or is_boolean(operand))


def reach(body: Body, used: Sequence[bool], follows: Follows = smoothly) -> set[Var]:
    """Finds the variables that the used results depend on. In a loop, this includes dependence across steps."""
    jaxpr = body.program.jaxpr
    results = zip(jaxpr.outvars, used, strict=True)
    # ``follows(variable, variable)`` leaves out results of other kinds, such as integers.
    found = {
        variable
        for variable, is_used in results
        if is_used and isinstance(variable, Var) and follows(variable, variable)
    }
    for equation in reversed(jaxpr.eqns):
        live_results = [variable for variable in equation.outvars if variable in found]
        operands = equation.invars
        if live_results and (equation.primitive.name in CALLS or equation.primitive.name == "scan"):
            # Only the operands that the inner program uses for these results count.
            (inner,) = bodies(equation)
            read = reach(inner, [variable in found for variable in equation.outvars], follows)
            arguments = zip(operands, inner.program.jaxpr.invars, strict=True)
            operands = [operand for operand, argument in arguments if argument in read]
        found |= {
            operand
            for operand in operands
            if isinstance(operand, Var) and any(follows(result, operand) for result in live_results)
        }
    # If a step reads a value of the carry, then the step before must compute it, so that result is used too.
    carry = jaxpr.invars[body.first_carried : body.first_carried + body.carried]
    used_before = [is_used or (number < body.carried and carry[number] in found) for number, is_used in enumerate(used)]
    return found if used_before == list(used) else reach(body, used_before, follows)


class Site(NamedTuple):
    """An equation that the results depend on.

    Args:
        path: its path in the program.
        equation: the equation.
        place: the source file and line that it comes from.
        live: the variables of its program that the results depend on.
        only_selects: the masks that only ``select_n`` reads.
        in_library: whether it is inside a function of JAX that has a guard.
    """

    path: EquationPath
    equation: JaxprEqn
    place: str
    live: set[Var]
    only_selects: set[Var]
    in_library: bool


def sites(
    body: Body,
    used: Sequence[bool],
    path: EquationPath = (),
    library_place: str | None = None,
    in_library: bool = False,
) -> Iterator[Site]:
    """Yields all equations that the used results depend on, in order. Inner equations follow their outer equation.

    Args:
        body: the program.
        used: for each result, whether it is used.
        path: the path of the program.
        library_place: if the program is one of JAX's own functions, the place where it is called.
        in_library: as in ``Site``.
    """
    live = reach(body, used)
    jaxpr = body.program.jaxpr
    only_selects = masks_of_selections(jaxpr)
    for number, equation in enumerate(jaxpr.eqns):
        if not any(variable in live for variable in equation.outvars):
            continue
        here, place = (*path, number), library_place or str(place_of(equation) or "?")
        yield Site(here, equation, place, live, only_selects, in_library)
        for inner_number, inner in enumerate(bodies(equation)):
            of_jax = is_file_of_jax(inner.program.jaxpr.debug_info.func_filename)
            inner_used = [variable in live for variable in equation.outvars]
            yield from sites(
                inner,
                inner_used,
                (*here, inner_number),
                place if of_jax else library_place,
                of_jax and (in_library or has_guard(equation)),
            )


def is_selection(equation: JaxprEqn) -> bool:
    """Whether an equation is a selection or its condition, or a call that does nothing else, as ``jnp.where`` is."""
    inside = [inner.primitive.name for program in inner_programs(equation) for inner in program.jaxpr.eqns]
    names = set(inside) or {equation.primitive.name}
    return bool(names & DECIDING) and names <= SELECTION


def fixed_operands(program: ClosedJaxpr) -> dict[EquationPath, list[bool]]:
    """For each equation outside of loops, which operands depend on values that are the same at every point.

    These are arguments of integers and booleans, such as labels and masks, and arrays that the formula closes over.
    """
    fixed: dict[EquationPath, list[bool]] = {}

    def hook(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
        fixed[path] = [operand is FIXED for operand in operands]
        if equation.primitive.name in CALLS:
            return compute(operands)
        return [FIXED if any(fixed[path]) else None] * len(equation.outvars)

    with_fixed = ClosedJaxpr(program.jaxpr, [FIXED] * len(program.consts))
    evaluate(with_fixed, [None if is_floating(variable) else FIXED for variable in program.jaxpr.invars], hook)
    return fixed


def has_guard(equation: JaxprEqn) -> bool:
    """Whether an equation is a call with a selection among others, such as the rule for infinity in ``softplus``."""
    inside = [inner for program in inner_programs(equation) for inner in all_equations(program)]
    is_call = equation.primitive.name in CALLS and not is_selection(equation)
    return is_call and any(inner.primitive.name == "select_n" for inner in inside)


def masks_of_selections(jaxpr: Jaxpr) -> set[Var]:
    """The masks of a program that only ``select_n`` reads."""
    masks: set[Var] = set()
    read_otherwise = {variable for variable in jaxpr.outvars if isinstance(variable, Var)}
    for equation in jaxpr.eqns:
        for number, operand in enumerate(equation.invars):
            is_mask = equation.primitive.name == "select_n" and number == 0
            if isinstance(operand, Var):
                (masks if is_mask else read_otherwise).add(operand)
    return masks - read_otherwise
