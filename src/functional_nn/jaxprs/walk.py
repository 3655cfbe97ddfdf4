"""Walking through traced programs: every equation with its layer and repeats, and programs without calls."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval

from functional_nn.core.children import BACKWARD
from functional_nn.jaxprs.inner_programs import (
    CALLS,
    LOOPS,
    TracedProgram,
    array_type,
    called_program,
    closed,
    inner_programs,
)

NO_LAYERS = frozenset(
    ("while", "body", "cond", "closed_call", "eval_jaxpr", "checkpoint", "rematted_computation", "shard_map", "")
)  # JAX 0.12 calls "eval_jaxpr" what was "closed_call"


class Located(NamedTuple):
    """An equation, the scope it stands in, how often it runs, and in how many loops it stands."""

    scope: str
    equation: JaxprEqn
    repeats: int
    loops: int


Place: TypeAlias = int | Literal
"""The number of a place that holds an array, or the array itself where it is written in the program."""


class Step(NamedTuple):
    """An equation of a flat program: it reads and writes numbered places, or reads literals."""

    scope: str
    equation: JaxprEqn
    inputs: tuple[Place, ...]
    outputs: tuple[int, ...]


class Flat(NamedTuple):
    """A program without calls: ``shapes`` of all places, and the values in the places of ``constants``."""

    inputs: tuple[int, ...]
    constants: dict[int, Any]
    steps: tuple[Step, ...]
    outputs: tuple[Place, ...]
    shapes: dict[int, ShapedArray]


def fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as one that JAX has not seen, so that ``jax.jit`` traces it anew."""

    @functools.wraps(function, updated=())
    def anew(*arguments):
        return function(*arguments)

    return anew


def trace(function: Callable[..., Any], *arguments: Any) -> ClosedJaxpr:
    """The program that a function becomes, without equations that none of its results needs."""
    return live(jax.make_jaxpr(function)(*arguments))


def live(program: ClosedJaxpr) -> ClosedJaxpr:
    """A traced program without equations that none of its results needs, which no compiler would run."""
    jaxpr, _ = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    return program.replace(jaxpr=jaxpr)


def equations(program: TracedProgram) -> Iterator[Located]:
    """Every equation without an inner program, those of inner programs included; of a ``cond`` those of each branch."""
    yield from _equations(program, "", 1, 0)


def _equations(program: TracedProgram, scope: str, repeats: int, loops: int) -> Iterator[Located]:
    for equation in closed(program).jaxpr.eqns:
        place = within(scope, equation)
        inner = inner_programs(equation)
        if not inner:
            yield Located(place, equation, repeats, loops)
        for inner_program in inner:
            deeper = loops + (equation.primitive.name in LOOPS)
            yield from _equations(inner_program, place, repeats * times(equation), deeper)


def within(scope: str, equation: JaxprEqn) -> str:
    """The scope of an equation of a program that was called in a scope."""
    return "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)


def times(equation: JaxprEqn) -> int:
    """How often an equation's inner programs run: a ``scan`` says it, a ``while`` is counted once.

    What ``shard_map`` maps is a device's share, and runs on every one.
    """
    if equation.primitive.name == "scan":
        return equation.params["length"]
    return equation.params["mesh"].size if equation.primitive.name == "shard_map" else 1


def layer_of(scope: str) -> tuple[str, bool]:
    """The path of the layer that a scope belongs to, and whether the scope is in the backward pass.

    >>> layer_of("jvp(dense_0)"), layer_of("transpose(jvp(residual_0))/dense_1"), layer_of("dense_0/backward")
    (('dense_0', False), ('residual_0/dense_1', True), ('dense_0', True))
    """
    text = re.sub(r"\bp?jit\([^()]*\)", "", scope)
    # Transforms stand around names: the innermost of transpose(jvp(dense_0)) goes first, until none is left.
    transforms = 1
    while transforms:
        text, transforms = re.subn(r"\b\w+\(([^()]*)\)", r"\1", text)
    names = [name for name in text.split("/") if name not in NO_LAYERS]
    return "/".join(name for name in names if name != BACKWARD), "transpose(" in scope or BACKWARD in names


def flattened(program: ClosedJaxpr) -> Flat:
    """A traced program with its calls replaced by the programs they call; loops and branches stay."""
    numbers = count()
    steps: list[Step] = []
    constants: dict[int, Any] = {}
    shapes: dict[int, ShapedArray] = {}

    def new_place(variable: Var) -> int:
        number = next(numbers)
        shapes[number] = array_type(variable)
        return number

    def lay(program: ClosedJaxpr, scope: str, inputs: Sequence[Place]) -> list[Place]:
        """Adds the steps of a program whose arguments stand in these places; returns the places of its results."""
        places: dict[Var, Place] = dict(zip(program.jaxpr.invars, inputs, strict=True))
        for variable, value in zip(program.jaxpr.constvars, program.consts, strict=True):
            places[variable] = number = new_place(variable)
            constants[number] = value

        def read(variable: Var | Literal) -> Place:
            return variable if isinstance(variable, Literal) else places[variable]

        for equation in program.jaxpr.eqns:
            inner_scope = within(scope, equation)
            operands = [read(variable) for variable in equation.invars]
            if equation.primitive.name in CALLS:
                results = lay(called_program(equation), inner_scope, operands)
            else:
                results = [new_place(variable) for variable in equation.outvars]
                steps.append(Step(inner_scope, equation, tuple(operands), tuple(results)))
            places.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in program.jaxpr.outvars]

    inputs = tuple(new_place(variable) for variable in program.jaxpr.invars)
    outputs = tuple(lay(program, "", inputs))
    return Flat(inputs, constants, tuple(steps), outputs, shapes)
