"""Walking through traced programs: every equation with its layer and repeats, and programs without calls."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import count
from typing import NamedTuple, TypeAlias, TypeVar

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval
from jax.typing import ArrayLike

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

Result = TypeVar("Result")

NO_LAYERS = frozenset(
    ("while", "cond", "closed_call", "eval_jaxpr", "checkpoint", "rematted_computation", "shard_map", "")
)  # JAX 0.12 calls "eval_jaxpr" what was "closed_call"


class Located(NamedTuple):
    """An equation with its scope, how often it runs, and the number of loops around it."""

    scope: str
    equation: JaxprEqn
    repeats: int
    loops: int


Place: TypeAlias = int | Literal
"""The number of a place, which holds an array; or a literal array that is written in the program."""


class Step(NamedTuple):
    """An equation of a flat program: it reads and writes numbered places, or reads literals."""

    scope: str
    equation: JaxprEqn
    inputs: tuple[Place, ...]
    outputs: tuple[int, ...]


class Flat(NamedTuple):
    """A program without calls. ``shapes`` has the shape of every place; ``constants`` has the constants by place."""

    inputs: tuple[int, ...]
    constants: dict[int, ArrayLike]
    steps: tuple[Step, ...]
    outputs: tuple[Place, ...]
    shapes: dict[int, ShapedArray]


def fresh(function: Callable[..., Result]) -> Callable[..., Result]:
    """Wraps a function so that JAX takes it for a new one, and ``jax.jit`` traces it again."""

    @functools.wraps(function, updated=())
    def anew(*arguments):
        return function(*arguments)

    return anew


def trace(function: Callable[..., object], *arguments: object) -> ClosedJaxpr:
    """Traces a function to a program, without the equations that no result needs."""
    return live(jax.make_jaxpr(function)(*arguments))


def live(program: ClosedJaxpr) -> ClosedJaxpr:
    """Removes the equations that no result needs from a traced program. Compilers remove them too."""
    jaxpr, _ = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    return program.replace(jaxpr=jaxpr)


def equations(program: TracedProgram) -> Iterator[Located]:
    """Yields every equation without an inner program.

    It enters inner programs, including all branches of a ``cond``.
    """
    yield from _equations(program, "", 1, 0)


def all_equations(program: TracedProgram) -> Iterator[JaxprEqn]:
    """Yields every equation of a program and of the programs inside it, also those with an inner program."""
    for equation in closed(program).jaxpr.eqns:
        yield equation
        for inner_program in inner_programs(equation):
            yield from all_equations(inner_program)


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
    """The full scope of an equation, if its program was called in the given scope."""
    return joined(scope, str(equation.source_info.name_stack))


def joined(scope: str, inner: str) -> str:
    """The full scope of a scope inside another one. Each may be empty."""
    return "/".join(part for part in (scope, inner) if part)


def times(equation: JaxprEqn) -> int:
    """How often an equation's inner programs run. A ``scan`` states its number of steps; a ``while`` counts once.

    The program of a ``shard_map`` divides some axes of the mesh, and runs once for each part.
    """
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "shard_map":
        # The other axes of the mesh are divided by a shard_map around this one, or by the compiler.
        return math.prod(equation.params["mesh"].shape[axis] for axis in equation.params["newly_manual_axes"])
    return 1


def layer_of(scope: str) -> tuple[str, bool]:
    """The path of the layer that a scope belongs to, and whether the scope is in the backward pass.

    >>> layer_of("jvp(dense_0)"), layer_of("transpose(jvp(residual_0))/dense_1"), layer_of("dense_0/backward")
    (('dense_0', False), ('residual_0/dense_1', True), ('dense_0', True))
    """
    text = re.sub(r"\bp?jit\([^()]*\)", "", scope)
    # Transforms enclose names, as in transpose(jvp(dense_0)). The innermost one is removed until none is left.
    transforms = 1
    while transforms:
        text, transforms = re.subn(r"\b\w+\(([^()]*)\)", r"\1", text)
    # A layer may be called "body", so only the body of a loop is left out.
    text = text.replace("while/body", "while")
    names = [name for name in text.split("/") if name not in NO_LAYERS]
    return "/".join(name for name in names if name != BACKWARD), "transpose(" in scope or BACKWARD in names


def flattened(program: ClosedJaxpr, calls: Container[str] = CALLS) -> Flat:
    """Replaces calls in a traced program by the called programs: all calls, or those of some kinds.

    Loops and branches stay.
    """
    numbers = count()
    steps: list[Step] = []
    constants: dict[int, ArrayLike] = {}
    shapes: dict[int, ShapedArray] = {}

    def new_place(variable: Var) -> int:
        number = next(numbers)
        shapes[number] = array_type(variable)
        return number

    def lay(program: ClosedJaxpr, scope: str, inputs: Sequence[Place]) -> list[Place]:
        """Adds the steps of a program with arguments in the places ``inputs``; returns the places of its results."""
        places: dict[Var, Place] = dict(zip(program.jaxpr.invars, inputs, strict=True))
        for variable, value in zip(program.jaxpr.constvars, program.consts, strict=True):
            places[variable] = number = new_place(variable)
            constants[number] = value

        def read(variable: Var | Literal) -> Place:
            return variable if isinstance(variable, Literal) else places[variable]

        for equation in program.jaxpr.eqns:
            inner_scope = within(scope, equation)
            operands = [read(variable) for variable in equation.invars]
            if equation.primitive.name in calls:
                results = lay(called_program(equation), inner_scope, operands)
            else:
                results = [new_place(variable) for variable in equation.outvars]
                steps.append(Step(inner_scope, equation, tuple(operands), tuple(results)))
            places.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in program.jaxpr.outvars]

    inputs = tuple(new_place(variable) for variable in program.jaxpr.invars)
    outputs = tuple(lay(program, "", inputs))
    return Flat(inputs, constants, tuple(steps), outputs, shapes)
