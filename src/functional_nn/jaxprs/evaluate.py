"""Evaluation of traced programs, equation by equation, with a hook that may change the results of an equation.

The hook also sees the equations inside calls, loops and branches. Values are JAX arrays, or any other values that the
hook can handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal, Var

from functional_nn.jaxprs import walk

Value: TypeAlias = Any
"""An array, or a pytree that a hook takes in place of an array."""
Compute: TypeAlias = Callable[[Sequence[Value]], list[Value]]
"""``compute(operands) -> results``."""
Results: TypeAlias = Callable[..., list[Value]]
"""``results(*arguments)`` evaluates a program."""
EquationPath: TypeAlias = tuple[int, ...]
"""The path of an equation: (3,) is equation number 3 of the program, and (3, 0, 7) is equation number 7 of the first
program inside that equation. Numbers start at 0."""
Hook: TypeAlias = Callable[[EquationPath, JaxprEqn, list[Value], Compute], list[Value]]
"""``hook(path, equation, operands, compute)`` returns the results of an equation: ``compute(operands)``, as JAX would
compute them, or other values. It is also called for the equations inside of this one."""


def evaluate(
    program: walk.TracedProgram, arguments: Sequence[Value], hook: Hook | None = None, path: EquationPath = ()
) -> list[Value]:
    """Evaluates a traced program and returns its results.

    Args:
        program: the traced program.
        arguments: one value for each of its input variables.
        hook: a function that is called for each equation.
        path: the path of the program. The paths of its equations begin with it.

    >>> program = jax.make_jaxpr(lambda x: jnp.sin(2 * x))(1.0)
    >>> def hook(path, equation, operands, compute):
    ...     print(path, equation.primitive.name)
    ...     return compute(operands)
    >>> (y,) = evaluate(program, [0.0], hook)
    (0,) mul
    (1,) sin
    """
    program = walk.closed(program)
    jaxpr = program.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *arguments), strict=True))

    def read(variable: Var | Literal) -> Value:
        if isinstance(variable, Literal):
            # A literal may be a number of Python. Its type is the one in the program.
            return jnp.asarray(variable.val, jnp.result_type(variable.aval))
        return values[variable]

    for number, equation in enumerate(jaxpr.eqns):
        here = (*path, number)
        operands = [read(variable) for variable in equation.invars]
        compute = partial(_compute, equation, hook, here)
        results = hook(here, equation, operands, compute) if hook else compute(operands)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def bind(equation: JaxprEqn, operands: Sequence[Value], **changes: object) -> list[jax.Array]:
    """Computes the results of one equation by JAX, with some of its parameters changed."""
    primitive = equation.primitive
    results = primitive.bind(*operands, **primitive.get_bind_params({**equation.params, **changes}))
    return list(results) if primitive.multiple_results else [results]


def run_steps(steps: Iterable[walk.Step], values: dict[int, Value]) -> None:
    """Computes steps of a flat program. Their operands are read from the values by place, and results are added."""
    for step in steps:
        operands = [place.val if isinstance(place, Literal) else values[place] for place in step.inputs]
        values.update(zip(step.outputs, bind(step.equation, operands), strict=True))


def scan_in_steps(
    equation: JaxprEqn,
    operands: Sequence[Value],
    run: Callable[[walk.TracedProgram, list[Value], int], list[Value]],
    row: Callable[[Value, int], Value],
    rows: Callable[[Sequence[Value]], Value],
) -> list[Value]:
    """Runs a ``scan`` in Python, one step after the other, with values of any kind.

    Args:
        equation: the ``scan``.
        operands: its operands.
        run: ``run(program, arguments, step)`` returns the results of the body in a step.
        row: ``row(input, step)`` returns what the step reads of an input.
        rows: joins what all steps have written to one output.
    """
    scan = walk.scan_parts(equation)
    constants, carry, inputs = scan.split_operands(operands)
    written: list[list[Value]] = [[]] * scan.length
    for step in reversed(range(scan.length)) if scan.reverse else range(scan.length):
        results = run(scan.body, [*constants, *carry, *(row(x, step) for x in inputs)], step)
        carry, written[step] = scan.split_results(results)
    if not written:
        types = [walk.array_type(variable) for variable in equation.outvars[scan.carried :]]
        return [*carry, *(np.zeros(output.shape, output.dtype) for output in types)]
    return [*carry, *map(rows, zip(*written, strict=True))]


def while_in_steps(
    equation: JaxprEqn,
    operands: Sequence[Value],
    run: Callable[[walk.TracedProgram, list[Value], int], list[Value]],
    truth: Callable[[Value], np.ndarray],
    select: Callable[[np.ndarray, list[Value], list[Value], int], list[Value]],
) -> list[Value]:
    """Runs a ``while`` in Python, one step after the other, with values of any kind.

    Args:
        equation: the ``while``.
        operands: its operands.
        run: ``run(program, arguments, step)`` returns the results of the condition or of the body in a step.
        truth: which examples a value of the condition lets go on. Under ``vmap``, every example has its own condition.
        select: ``select(going, new, old, step)`` returns the new values of the examples that go on, and the old ones of
            those that have ended.
    """
    loop = walk.while_parts(equation)
    condition_constants, body_constants, carry = loop.split_operands(operands)
    for step in count():
        (goes_on,) = run(loop.condition, [*condition_constants, *carry], step)
        going = truth(goes_on)
        if not going.any():
            break
        after = run(loop.body, [*body_constants, *carry], step)
        carry = after if going.all() else select(going, after, carry, step)
    return carry


def with_axes(array: jax.Array, like: jax.Array) -> jax.Array:
    """Adds axes of size 1 at the end, until there are as many as ``like`` has."""
    return array.reshape(array.shape + (1,) * (like.ndim - array.ndim))


def _compute(equation: JaxprEqn, hook: Hook | None, path: EquationPath, operands: Sequence[Value]) -> list[Value]:
    """Computes an equation's results. The programs inside it are evaluated with the hook."""

    def inner(program: walk.TracedProgram, number: int = 0) -> Results:
        return lambda *arguments: evaluate(program, arguments, hook, (*path, number))

    name = equation.primitive.name
    if name in walk.CALLS:
        return inner(walk.called_program(equation))(*operands)
    if name == "scan":
        scan = walk.scan_parts(equation)
        return run_scan(scan, operands, inner(scan.body))
    if name == "while":
        loop = walk.while_parts(equation)
        return _run_while(loop, operands, inner(loop.condition, 1), inner(loop.body))
    if name == "cond":
        index, *others = operands
        chosen = [inner(branch, number) for number, branch in enumerate(walk.branches(equation))]
        return list(lax.switch(index, chosen, *others))
    return bind(equation, operands)


def run_scan(scan: walk.Scan, operands: Sequence[Value], body: Results) -> list[Value]:
    constants, carry, inputs = scan.split_operands(operands)

    def step(carry: list[Value], inputs: list[Value]) -> tuple[list[Value], list[Value]]:
        return scan.split_results(body(*constants, *carry, *inputs))

    carry, outputs = lax.scan(step, carry, inputs, length=scan.length, reverse=scan.reverse)
    return [*carry, *outputs]


def _run_while(loop: walk.While, operands: Sequence[Value], condition: Results, body: Results) -> list[Value]:
    condition_constants, body_constants, carry = loop.split_operands(operands)

    def going(carry: list[Value]) -> jax.Array:
        (result,) = condition(*condition_constants, *carry)
        return result

    def step(carry: list[Value]) -> list[Value]:
        # Under ``vmap``, every example has a condition of its own. If it is false, the values do not change.
        which = going(carry)
        after = body(*body_constants, *carry)
        if not which.ndim:
            return after
        return [jnp.where(with_axes(which, new), new, old) for new, old in zip(after, carry, strict=True)]

    return lax.while_loop(lambda carry: jnp.any(going(carry)), step, carry)
