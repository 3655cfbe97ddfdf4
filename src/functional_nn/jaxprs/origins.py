"""The arguments of a traced program that each equation reads, also inside calls, loops and branches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from functional_nn.jaxprs.inner_programs import TracedProgram, branches, closed, inner_programs, while_parts

Origin = frozenset[int]
"""The numbers of arguments. A value has an origin if it is computed from these arguments alone."""

NOTHING: Origin = frozenset()


def arguments_read(program: TracedProgram, origins: Mapping[int, Origin]) -> Iterator[Origin]:
    """Yields, for every equation in the order of ``walk.equations``, the arguments of which it reads a value.

    ``origins`` has the origin of each argument of the program by its position.

    >>> import jax
    >>> program = jax.make_jaxpr(lambda w, x: (2 * w) @ x)(1.0 * jax.numpy.ones(3), jax.numpy.ones(3))
    >>> [sorted(read) for read in arguments_read(program, {0: frozenset([0])})]
    [[0], [0]]
    """
    known: dict[Var, Origin] = {}
    jaxpr = closed(program).jaxpr
    for position, variable in enumerate(jaxpr.invars):
        known[variable] = origins.get(position, NOTHING)

    for equation in jaxpr.eqns:
        operands = [variable for variable in equation.invars if not isinstance(variable, Literal)]
        sources = [known.get(variable, NOTHING) for variable in operands]
        union = NOTHING.union(*sources)
        inner = inner_programs(equation)
        if not inner:
            yield union
        for inner_program in inner:
            yield from arguments_read(inner_program, _inner_origins(equation, inner_program, known))
        # A value that is computed from such arguments and from others has no origin.
        result = union if all(sources) else NOTHING
        known.update((variable, result) for variable in equation.outvars)


def _inner_origins(equation: JaxprEqn, inner: ClosedJaxpr, known: Mapping[Var, Origin]) -> dict[int, Origin]:
    """The origins of an inner program's arguments: those of the operands that they stand for."""
    operands = list(equation.invars)
    if equation.primitive.name == "cond":
        # The first operand selects the branch, and no branch reads it.
        operands = operands[1:] if inner.jaxpr in [branch.jaxpr for branch in branches(equation)] else []
    elif equation.primitive.name == "while":
        condition, body, carry = while_parts(equation).split_operands(operands)
        operands = [*(condition if inner.jaxpr is while_parts(equation).condition.jaxpr else body), *carry]
    if len(operands) != len(inner.jaxpr.invars):
        return {}
    return {
        position: known.get(operand, NOTHING)
        for position, operand in enumerate(operands)
        if not isinstance(operand, Literal)
    }
