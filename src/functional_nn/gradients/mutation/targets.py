"""Traced programs: what stands inside an equation, which variables matter, and where a person wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Var

from functional_nn.jaxprs.equations import bind, scan_sizes

CALLS = {"jit", "closed_call", "core_call", "remat2", "checkpoint"} | {
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vmap_call",
}
"""Equations that only wrap another program around the same operands and results."""

PACKAGE = Path(__file__).parents[2]
NO_PLACES = (str(Path(jax.__file__).parent), *(str(PACKAGE / part) for part in ("gradients", "jaxprs")), "<")
"""Where no user's code stands: in JAX, in this package's own checks, in what has no file."""

SitePath = tuple[int, ...]


class Body(NamedTuple):
    """A program inside an equation.

    Args:
        jaxpr: the program; its results are the equation's.
        consts: the values of its constants.
        carried: how many of its first results are fed back to it in the next step of a loop.
        offset: its argument that the first of them is fed back to.
    """

    jaxpr: Jaxpr
    consts: Sequence[Any]
    carried: int = 0
    offset: int = 0


def floating(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.floating)


def boolean(atom: Any) -> bool:
    return atom.aval.dtype == bool


def bodies(equation: JaxprEqn) -> list[Body]:
    """The programs inside an equation that can be changed safely."""
    params, name = equation.params, equation.primitive.name
    if name in CALLS:
        called = next(params[key] for key in ("jaxpr", "call_jaxpr", "call") if key in params)
        return [closed(called)]
    if name == "scan":
        consts, carried = scan_sizes(params)
        return [closed(params["jaxpr"], carried, consts)]
    if name == "cond":
        return [closed(branch) for branch in params["branches"]]
    if name == "while" and ends_whatever_the_numbers(equation):
        return [while_body(equation)]
    return []


def closed(jaxpr: Any, carried: int = 0, offset: int = 0) -> Body:
    """A program with its constants, whether JAX keeps them in it or beside it."""
    return Body(getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()), carried, offset)


def while_body(equation: JaxprEqn) -> Body:
    return closed(equation.params["body_jaxpr"], len(equation.outvars), equation.params["body_nconsts"])


def ends_whatever_the_numbers(equation: JaxprEqn) -> bool:
    """Whether a loop's condition depends on no floating-point number: a mutant of another loop might never end."""
    condition = closed(equation.params["cond_jaxpr"])
    read = reach(condition, [True], anything)
    seen = condition.jaxpr.invars[equation.params["cond_nconsts"] :]
    return not any(map(floating, read | reach(while_body(equation), [variable in read for variable in seen], anything)))


def anything(result: Any, operand: Any) -> bool:
    return True


def numbers(result: Any, operand: Any) -> bool:
    """Numbers reach numbers, masks reach numbers and masks; what a number reaches by a comparison is no number."""
    return boolean(operand) if boolean(result) else floating(result) and (floating(operand) or boolean(operand))


def reach(body: Body, used: Sequence[bool], follows: Callable[[Any, Any], bool] = numbers) -> set[Var]:
    """The variables that have a part in the used results, from step to step in a loop."""
    jaxpr = body.jaxpr
    found = {v for v, u in zip(jaxpr.outvars, used, strict=True) if u and isinstance(v, Var) and follows(v, v)}
    for equation in reversed(jaxpr.eqns):
        results = [v for v in equation.outvars if v in found]
        operands = equation.invars
        if results and (equation.primitive.name in CALLS or equation.primitive.name == "scan"):
            (inner,) = bodies(equation)
            read = reach(inner, [v in found for v in equation.outvars], follows)
            operands = [o for o, v in zip(operands, inner.jaxpr.invars, strict=True) if v in read]
        found |= {o for o in operands if isinstance(o, Var) and any(follows(r, o) for r in results)}
    fed = jaxpr.invars[body.offset : body.offset + body.carried]
    again = [u or (k < body.carried and fed[k] in found) for k, u in enumerate(used)]
    return found if again == list(used) else reach(body, again, follows)


class Site(NamedTuple):
    """An equation that has a part in the results.

    Args:
        path: its number, after those of the equations that it stands inside.
        equation: it.
        place: the file and line where a person wrote it.
        live: the variables of its program that have a part in the results.
        only_selects: the masks that nothing but ``select_n`` reads.
    """

    path: SitePath
    equation: JaxprEqn
    place: str
    live: set[Var]
    only_selects: set[Var]


def sites(body: Body, used: Sequence[bool], path: SitePath = (), outer: str | None = None) -> Iterator[Site]:
    """All equations that have a part in the used results, in their order, those inside of others after them.

    ``outer`` is the place of a call to one of JAX's own functions, for what stands inside it.
    """
    live = reach(body, used)
    equations = body.jaxpr.eqns
    selecting = {e.invars[0] for e in equations if e.primitive.name == "select_n" and isinstance(e.invars[0], Var)}
    others = {o for e in equations for o in e.invars[e.primitive.name == "select_n" :] if isinstance(o, Var)}
    only_selects = selecting - others - {v for v in body.jaxpr.outvars if isinstance(v, Var)}
    for number, equation in enumerate(equations):
        if not any(v in live for v in equation.outvars):
            continue
        here, place = (*path, number), outer or place_of(equation)
        yield Site(here, equation, place, live, only_selects)
        for inner, program in enumerate(bodies(equation)):
            inside = place if is_library(program.jaxpr) else outer
            steps = [v in live for v in equation.outvars]
            yield from sites(program, steps, (*here, inner), inside)


def place_of(equation: JaxprEqn) -> str:
    """The innermost line outside of JAX that an equation comes from, and its function: ``lstm.py:88 (backward)``."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if not frame.file_name.startswith(NO_PLACES):
            return f"{Path(frame.file_name).name}:{frame.line_num} ({frame.function_name})"
    return "?"


def is_library(jaxpr: Jaxpr) -> bool:
    """Whether a program is one of JAX's own functions; it was perhaps traced for somebody else."""
    return (jaxpr.debug_info.func_filename or "").startswith(NO_PLACES[0])


Stage = Callable[[SitePath, list[Any], list[Any] | None], list[Any]]


def run(body: Body, arguments: Sequence[Any], change: Stage, path: SitePath = ()) -> list[Any]:
    """Evaluates a program; ``change`` may replace what goes into an equation and what comes out of it.

    It is called as ``change(path, operands, None) -> operands`` before, ``change(path, operands, results) -> results``
    after each equation.
    """
    jaxpr = body.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*body.consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return values[atom] if isinstance(atom, Var) else jnp.asarray(atom.val, atom.val.dtype)

    for number, equation in enumerate(jaxpr.eqns):
        here = (*path, number)
        operands = change(here, [read(atom) for atom in equation.invars], None)
        results = change(here, operands, evaluate(equation, operands, change, here))
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def evaluate(equation: JaxprEqn, operands: list[Any], change: Stage, path: SitePath) -> list[Any]:
    """One equation; loops and calls are run again, so that the equations inside them can be changed as well."""
    inside = [
        lambda *operands, body=body, number=number: run(body, operands, change, (*path, number))
        for number, body in enumerate(bodies(equation))
    ]
    params = equation.params
    match equation.primitive.name:
        case name if inside and name in CALLS:
            return inside[0](*operands)
        case "scan":
            return scan(params, operands, inside[0])
        case "cond":
            index, *operands = operands
            return list(lax.switch(index, inside, *operands))
        case "while" if inside:
            return while_loop(params, operands, inside[0])
    return bind(equation, operands)


def scan(params: dict[str, Any], operands: list[Any], body: Callable[..., list[Any]]) -> list[Any]:
    consts, carried = scan_sizes(params)

    def step(carry, x):
        results = body(*operands[:consts], *carry, *x)
        return results[:carried], results[carried:]

    start, xs = operands[consts : consts + carried], operands[consts + carried :]
    carry, ys = lax.scan(step, start, xs, params["length"], params["reverse"], params["unroll"])
    return [*carry, *ys]


def while_loop(params: dict[str, Any], operands: list[Any], body: Callable[..., list[Any]]) -> list[Any]:
    split = params["cond_nconsts"]
    consts, start = operands[split : split + params["body_nconsts"]], operands[split + params["body_nconsts"] :]
    condition = closed(params["cond_jaxpr"])

    def unfinished(carry):
        return run(condition, [*operands[:split], *carry], lambda path, before, after: after or before)[0]

    return lax.while_loop(unfinished, lambda carry: body(*consts, *carry), start)
