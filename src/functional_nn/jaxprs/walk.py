"""Reading traced programs: every equation with its layer and how often it runs; calls inside calls laid flat."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from functional_nn.core.children import BACKWARD

CALLS = frozenset(
    (
        *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
        *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
    )
)
"""What only calls another program, once. Derivatives that it may bring are other programs, and never run here."""
LOOPS = frozenset(("scan", "while"))
WITH_RULES = ("scatter", "reduce", "arg", "select_and_scatter", "sort")
"""Operations whose parameters hold how two elements become one: no program that runs by itself."""
NO_LAYERS = frozenset(
    ("while", "body", "cond", "closed_call", "eval_jaxpr", "checkpoint", "rematted_computation", "shard_map", "")
)  # JAX 0.12 calls "eval_jaxpr" what was "closed_call"


class Located(NamedTuple):
    """An equation, the scope it stands in, how often it runs, and whether that is in a loop."""

    scope: str
    equation: Any
    repeats: int
    in_loop: bool


class Step(NamedTuple):
    """An equation of a program laid flat: it reads and writes numbered places, or reads literals."""

    scope: str
    equation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


class Flat(NamedTuple):
    """A program without calls: ``shapes`` of all places, and what stands in those of ``constants``."""

    inputs: tuple[int, ...]
    constants: dict[int, Any]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]
    shapes: dict[int, Any]


def fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as one that JAX has not seen, so that ``jax.jit`` traces it anew."""

    @functools.wraps(function, updated=())
    def anew(*arguments):
        return function(*arguments)

    return anew


def trace(function: Callable[..., Any], *arguments: Any) -> Any:
    """The program that a function becomes, without what none of its results needs."""
    return live(jax.make_jaxpr(function)(*arguments))


def live(program: Any) -> Any:
    """A traced program without what none of its results needs, which no compiler would run."""
    jaxpr, _ = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    return program.replace(jaxpr=jaxpr)


def equations(program: Any) -> Iterator[Located]:
    """Every equation of a traced program, inner programs included. Of a ``cond`` each branch is there."""
    yield from _equations(program, "", 1, False)


def _equations(program: Any, scope: str, repeats: int, in_loop: bool) -> Iterator[Located]:
    for equation in getattr(program, "jaxpr", program).eqns:
        own = within(scope, equation)
        inner = inner_programs(equation)
        if not inner:
            yield Located(own, equation, repeats, in_loop)
        for program_inside in inner:
            looped = in_loop or equation.primitive.name in LOOPS
            yield from _equations(program_inside, own, repeats * times(equation), looped)


def within(scope: str, equation: Any) -> str:
    """The scope of an equation of a program that was called in a scope."""
    return "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)


def times(equation: Any) -> int:
    """How often an equation's inner programs run: a ``scan`` says it, a ``while`` is counted once.

    What ``shard_map`` maps is a device's share, and runs on every one.
    """
    if equation.primitive.name == "scan":
        return equation.params["length"]
    return equation.params["mesh"].size if equation.primitive.name == "shard_map" else 1


def inner_programs(equation: Any) -> list[Any]:
    """The programs in an equation's parameters."""
    if equation.primitive.name.startswith(WITH_RULES):
        return []
    values = (value if isinstance(value, tuple | list) else (value,) for value in equation.params.values())
    return [part for value in values for part in value if hasattr(getattr(part, "jaxpr", part), "eqns")]


def layer_of(scope: str) -> tuple[str, bool]:
    """The layer's path that a scope is of, and whether it is the backward pass.

    >>> layer_of("jvp(dense_0)"), layer_of("transpose(jvp(residual_0))/dense_1"), layer_of("dense_0/backward")
    (('dense_0', False), ('residual_0/dense_1', True), ('dense_0', True))
    """
    text = re.sub(r"\bp?jit\([^()]*\)", "", scope)
    while text != (text := re.sub(r"\b\w+\(([^()]*)\)", r"\1", text)):
        pass
    names = [name for name in text.split("/") if name not in NO_LAYERS]
    return "/".join(name for name in names if name != BACKWARD), "transpose(" in scope or BACKWARD in names


def flattened(program: Any) -> Flat:
    """A traced program with its calls replaced by what they call; loops and branches stay."""
    numbers = count()
    steps: list[Step] = []
    constants: dict[int, Any] = {}
    shapes: dict[int, Any] = {}

    def place(variable: Any) -> int:
        number = next(numbers)
        shapes[number] = variable.aval
        return number

    def lay(program: Any, scope: str, inputs: Sequence[Any]) -> list[Any]:
        jaxpr = getattr(program, "jaxpr", program)
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True):
            known[variable] = place(variable)
            constants[known[variable]] = value

        def read(variable: Any) -> Any:
            return variable if isinstance(variable, Literal) else known[variable]

        for equation in jaxpr.eqns:
            own, operands = within(scope, equation), [read(variable) for variable in equation.invars]
            inner = inner_programs(equation) if equation.primitive.name in CALLS else []
            if inner:
                results = lay(inner[0], own, operands)
            else:
                results = [place(variable) for variable in equation.outvars]
                steps.append(Step(own, equation, tuple(operands), tuple(results)))
            known.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    inputs = tuple(place(variable) for variable in program.jaxpr.invars)
    outputs = tuple(lay(program, "", inputs))
    return Flat(inputs, constants, tuple(steps), outputs, shapes)
