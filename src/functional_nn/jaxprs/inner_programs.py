"""Programs inside the equations of a traced program: the programs that calls, loops and branches run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypeVar, cast

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from functional_nn.core.products import bilinear_p, traced_for, traced_formula

TracedProgram: TypeAlias = ClosedJaxpr | Jaxpr
"""A traced program, with or without the values of its constants."""

Value = TypeVar("Value")

CALLS = frozenset(
    {"jit", "call", "closed_call", "eval_jaxpr", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
    | {"call_hi_primitive", bilinear_p.name}
)
"""Equations that only call another program, once, with their own operands and results.

Such an equation may also contain a rule for derivatives or for ``vmap``. This rule is another program, which never
runs here.
"""
PLAIN_CALLS = frozenset(("jit", "call", "closed_call", "eval_jaxpr"))
"""The calls that have no rule for derivatives or for ``vmap``, and do not recompute values."""
CALLED = ("jaxpr", "call_jaxpr", "call")
"""The possible names of the parameter that holds the program of a call. Each call has one of them."""
LOOPS = frozenset(("scan", "while"))
ELEMENT_RULES = ("scatter", "reduce", "arg", "select_and_scatter", "sort")
"""Prefixes of operations that have a program as a parameter: it combines or compares two elements. Such a program never
runs by itself."""


class Scan(NamedTuple):
    """A ``scan``: in each step ``body(*constants, *carry, *inputs) -> (*carry, *outputs)``.

    Args:
        body: the program of one step.
        constants: the number of operands that are the same in every step.
        carried: the number of values in the carry, which pass from step to step.
        length: the number of steps.
        reverse: whether the steps run from the last to the first.
    """

    body: ClosedJaxpr
    constants: int
    carried: int
    length: int
    reverse: bool

    def split_operands(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """Splits the operands into constants, initial carry, and inputs of the steps."""
        end = self.constants + self.carried
        return list(operands[: self.constants]), list(operands[self.constants : end]), list(operands[end:])

    def split_results(self, results: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """Splits the results of a step or of the loop into carry and outputs."""
        return list(results[: self.carried]), list(results[self.carried :])


class While(NamedTuple):
    """A ``while``: as long as ``condition(*constants, *carry)`` is true, ``carry = body(*constants, *carry)`` is run.

    Args:
        condition: the program that decides whether another step follows. It has its own constants.
        body: the program of one step. It has its own constants.
        condition_constants: the number of constants of the condition, which are the first operands.
        body_constants: the number of constants of the body, which are the next operands.
    """

    condition: ClosedJaxpr
    body: ClosedJaxpr
    condition_constants: int
    body_constants: int

    def split_operands(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """Splits the operands into constants of the condition, constants of the body, and initial carry."""
        start = self.condition_constants
        end = start + self.body_constants
        return list(operands[:start]), list(operands[start:end]), list(operands[end:])


def closed(program: TracedProgram) -> ClosedJaxpr:
    """Converts a program to a ``ClosedJaxpr``. A ``Jaxpr`` without constants gets an empty tuple of constants."""
    return cast(ClosedJaxpr, program) if hasattr(program, "consts") else ClosedJaxpr(cast(Jaxpr, program), ())


def called_program(equation: JaxprEqn) -> ClosedJaxpr:
    """The program that an equation of ``CALLS`` calls.

    For a function with one program for each platform, this is the program of JAX's default platform.
    """
    if equation.primitive is bilinear_p:
        return traced_for(equation, jax.default_backend())
    if "_prim" in equation.params:  # JAX 0.12 has operations that are traced only when they are needed
        return _expanded(equation)
    return closed(next(equation.params[name] for name in CALLED if name in equation.params))


def _expanded(equation: JaxprEqn) -> ClosedJaxpr:
    """The program of an operation that JAX expands into simpler ones, such as ``searchsorted``."""
    operation = equation.params["_prim"]

    def expand(*operands: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(operation.expand(*jax.tree.unflatten(operation.in_tree, operands)))

    types = [array_type(variable) for variable in equation.invars]
    return jax.make_jaxpr(expand)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in types))


def counted_program(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The program whose operations an equation counts as, if that may be another one than it runs."""
    return traced_formula(equation) if equation.primitive is bilinear_p else None


def branches(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The branches of a ``cond``. The first operand selects a branch; the other operands are its arguments."""
    return [closed(branch) for branch in equation.params["branches"]]


def scan_parts(equation: JaxprEqn) -> Scan:
    """The parts of a ``scan``."""
    parameters = equation.params
    if "ft_in" in parameters:  # JAX 0.12 keeps the operands' groups as a tree
        constants, carry, _ = (list(group) for group in parameters["ft_in"].unpack())
        counts = len(constants), len(carry)
    else:
        counts = parameters["num_consts"], parameters["num_carry"]
    return Scan(closed(parameters["jaxpr"]), *counts, parameters["length"], parameters["reverse"])


def while_parts(equation: JaxprEqn) -> While:
    """The parts of a ``while``."""
    condition, body = closed(equation.params["cond_jaxpr"]), closed(equation.params["body_jaxpr"])
    return While(condition, body, equation.params["cond_nconsts"], equation.params["body_nconsts"])


def inner_programs(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """All programs in an equation's parameters that run by themselves: in calls, loops, branches and ``shard_map``."""
    if equation.primitive is bilinear_p:
        return [called_program(equation)]
    if equation.primitive.name == "custom_linear_solve":
        # The other programs are for derivatives: the product with the matrix, and both for the transposed matrix.
        return [closed(equation.params["jaxprs"].solve)]
    if equation.primitive.name.startswith(ELEMENT_RULES):
        return []
    found = []
    for parameter in equation.params.values():
        values = parameter if isinstance(parameter, tuple | list) else (parameter,)
        found += [closed(value) for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]
    return found


def array_type(variable: Var | Literal) -> ShapedArray:
    """The shape and type of a variable that holds an array."""
    return cast(ShapedArray, variable.aval)
