"""Programs inside the equations of a traced program: what calls, loops and branches run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypeVar, cast

from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

TracedProgram: TypeAlias = ClosedJaxpr | Jaxpr
"""A traced program, with the values of its constants or without constants."""

Value = TypeVar("Value")

CALLS = frozenset(
    {"jit", "call", "closed_call", "eval_jaxpr", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
)
"""Equations that only call another program, once, with their own operands and results.

A rule for derivatives or for ``vmap`` that such an equation brings is another program, and never runs here.
"""
CALLED = ("jaxpr", "call_jaxpr", "call")
"""The parameters that hold the program of a call; each call has one of them."""
LOOPS = frozenset(("scan", "while"))
ELEMENT_RULES = ("scatter", "reduce", "arg", "select_and_scatter", "sort")
"""How the names of operations begin whose parameters say how two elements become one. Such a program never runs by
itself."""


class Scan(NamedTuple):
    """A ``scan``: in each step ``body(*constants, *carry, *inputs) -> (*carry, *outputs)``.

    Args:
        body: the program of one step.
        constants: how many operands are the same in every step.
        carried: how many values go from step to step.
        length: how many steps there are.
        reverse: whether the last step comes first.
    """

    body: ClosedJaxpr
    constants: int
    carried: int
    length: int
    reverse: bool

    def split_operands(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """The operands as constants, first carry, and what the steps read."""
        end = self.constants + self.carried
        return list(operands[: self.constants]), list(operands[self.constants : end]), list(operands[end:])

    def split_results(self, results: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """The results, of a step or of the loop, as carry and outputs."""
        return list(results[: self.carried]), list(results[self.carried :])


class While(NamedTuple):
    """A ``while``: as long as ``condition(*its constants, *carry)``, carry becomes ``body(*its constants, *carry)``.

    Args:
        condition: the program that says whether another step follows.
        body: the program of one step.
        condition_constants: how many of the first operands only the condition reads.
        body_constants: how many of the next operands only the body reads.
    """

    condition: ClosedJaxpr
    body: ClosedJaxpr
    condition_constants: int
    body_constants: int

    def split_operands(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """The operands as constants of the condition, constants of the body, and first carry."""
        start = self.condition_constants
        end = start + self.body_constants
        return list(operands[:start]), list(operands[start:end]), list(operands[end:])


def closed(program: TracedProgram) -> ClosedJaxpr:
    """A program with the values of its constants; a program without constants as one that has none."""
    return cast(ClosedJaxpr, program) if hasattr(program, "consts") else ClosedJaxpr(cast(Jaxpr, program), ())


def called_program(equation: JaxprEqn) -> ClosedJaxpr:
    """The program that an equation of ``CALLS`` calls."""
    return closed(next(equation.params[name] for name in CALLED if name in equation.params))


def branches(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The programs that a ``cond`` chooses from by its first operand; they get its other operands."""
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
    """Every program in an equation's parameters that runs by itself: of calls, loops, branches, ``shard_map``."""
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
