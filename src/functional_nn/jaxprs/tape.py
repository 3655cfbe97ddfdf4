"""Forward and backward pass of a traced program, by hand-derived rules. Some equations are calls that bring their own.

The forward pass computes a flat program and keeps the values that the backward pass needs. The backward pass goes
through its steps from the last to the first, and adds up the cotangents of a value that is used several times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import JaxprEqn, Literal

from functional_nn.core.errors import FormulaMissing
from functional_nn.jaxprs.backward_rules import WITHOUT_DERIVATIVE, Operation, Rule, operand_bar, rule_of
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.walk import CALLS, Flat, Place, Step, array_type, called_program, flattened, is_file_of_jax

Bar: TypeAlias = jax.Array | None
"""A cotangent; None for 0, and for what has no derivative."""
Call: TypeAlias = Callable[[JaxprEqn, list[jax.Array]], Sequence[jax.Array]]
"""``call(equation, operands) -> results``, the forward pass of a call."""
CallBackward: TypeAlias = Callable[[JaxprEqn, list[Bar]], Sequence[Bar]]
"""``call_backward(equation, result_bars) -> operand_bars``, the backward pass of a call."""


class Tape(NamedTuple):
    """What the backward pass of a program needs to know before any value is computed.

    Args:
        steps: the steps of the flat program.
        inputs: the places of its arguments.
        outputs: the places of its results.
        active: the places of floating-point and complex values that depend on the arguments. A floating-point value has
            a cotangent. At a complex one, the backward pass raises ``FormulaMissing``.
        kept: the places whose values the backward pass needs.
        calls: the name of the primitive of calls that have a backward pass of their own.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Place, ...]
    active: frozenset[int]
    kept: tuple[int, ...]
    calls: str


def make_tape(flat: Flat, calls: str) -> Tape:
    """Finds out which values have a cotangent, and which the backward pass needs."""
    active = {place for place in flat.inputs if _has_cotangent(flat.shapes[place])}
    kept: dict[int, None] = {}
    for step in flat.steps:
        name = operation_name(step.equation)
        results = [place for place in step.outputs if _has_cotangent(flat.shapes[place])]
        # A call may have parameters of its own, and it keeps what its backward pass needs.
        if name == calls:
            active.update(results)
            continue
        indices = [index for index, place in enumerate(step.inputs) if not _is_literal(place) and place in active]
        if not indices or name in WITHOUT_DERIVATIVE:
            continue
        active.update(results)
        for index in indices:
            if rule := _rule(step.equation, index):
                needed = [step.inputs[number] for number in rule.operands]
                needed += step.outputs[:1] if rule.result else ()
                kept.update((place, None) for place in needed if not isinstance(place, Literal))
    return Tape(flat.steps, flat.inputs, flat.outputs, frozenset(active), tuple(kept), calls)


def run_forward(
    tape: Tape, constants: Mapping[int, jax.Array], arguments: Sequence[jax.Array], call: Call
) -> tuple[list[jax.Array], tuple[jax.Array, ...]]:
    """Computes a program: its results, and the values that the backward pass needs."""
    values = {**constants, **dict(zip(tape.inputs, arguments, strict=True))}
    for step in tape.steps:
        operands = [_read(values, place) for place in step.inputs]
        with _scope(step):
            if step.equation.primitive.name == tape.calls:
                results = call(step.equation, operands)
            else:
                results = bind(step.equation, operands)
        values.update(zip(step.outputs, results, strict=True))
    return [_read(values, place) for place in tape.outputs], tuple(values[place] for place in tape.kept)


def run_backward(
    tape: Tape, kept: Sequence[jax.Array], result_bars: Sequence[Bar], call_backward: CallBackward
) -> list[Bar]:
    """The cotangents of a program's arguments, from those of its results."""
    values = dict(zip(tape.kept, kept, strict=True))
    bars: dict[int, jax.Array] = {}

    def add(place: Place, bar: Bar) -> None:
        """Adds a cotangent to those that the value has already, since it may be used several times."""
        if bar is not None and not isinstance(place, Literal) and place in tape.active:
            bars[place] = bars[place] + bar if place in bars else bar

    for place, bar in zip(tape.outputs, result_bars, strict=True):
        add(place, bar)
    for step in reversed(tape.steps):
        # The steps that read these values come later, and were gone through before. So these cotangents are complete.
        step_bars = [bars.pop(place, None) for place in step.outputs]
        with _scope(step):
            if step.equation.primitive.name == tape.calls:
                for place, bar in zip(step.inputs, call_backward(step.equation, step_bars), strict=True):
                    add(place, bar)
            elif any(bar is not None for bar in step_bars):
                for index, place in enumerate(step.inputs):
                    if not isinstance(place, Literal) and place in tape.active:
                        add(place, _bar_of_operand(step, index, values, step_bars))
    return [bars.get(place) for place in tape.inputs]


def _bar_of_operand(step: Step, index: int, values: Mapping[int, jax.Array], step_bars: Sequence[Bar]) -> jax.Array:
    """The cotangent of one operand of a step, by its rule."""
    equation = step.equation
    rule = _rule(equation, index)
    if rule is None:
        raise FormulaMissing(missing_rule(equation))
    # For an operation with several results, a result without a cotangent gets zeros: its rule needs all of them.
    filled = [
        jnp.zeros(array_type(variable).shape, array_type(variable).dtype) if bar is None else bar
        for bar, variable in zip(step_bars, equation.outvars, strict=True)
    ]
    operation = Operation(
        equation.params,
        [array_type(variable) for variable in equation.invars],
        {number: _read(values, step.inputs[number]) for number in rule.operands},
        values[step.outputs[0]] if rule.result else None,
    )
    return operand_bar(rule, operation, index, filled if equation.primitive.multiple_results else filled[0])


def _rule(equation: JaxprEqn, index: int) -> Rule | None:
    """The rule for one operand of an operation; None if there is none. The rules are for real numbers only."""
    return None if _is_complex(equation) else rule_of(operation_name(equation), index)


def _is_complex(equation: JaxprEqn) -> bool:
    types = (array_type(variable) for variable in (*equation.invars, *equation.outvars))
    return any(jnp.issubdtype(kind.dtype, jnp.complexfloating) for kind in types)


def operation_name(equation: JaxprEqn) -> str:
    """The name under which an operation has a rule: ``relu`` for ``jax.nn.relu``, else the name of its primitive.

    ``jax.nn.relu`` is a call with a derivative of its own, which differs at 0 from that of the maximum inside. Another
    function with this name may have any derivative.
    """
    name = equation.primitive.name
    if name not in CALLS or _called_function(equation) != "relu":
        return name
    program = called_program(equation)
    if not is_file_of_jax(program.jaxpr.debug_info.func_filename):
        return name
    steps = flattened(program).steps
    is_maximum = [step.equation.primitive.name for step in steps] == ["max"]
    is_with_zero = is_maximum and any(isinstance(place, Literal) and place.val == 0 for place in steps[0].inputs)
    return "relu" if is_with_zero else name


def _called_function(equation: JaxprEqn) -> str:
    """The name of the Python function that an equation calls, if it is known."""
    debug_info = getattr(called_program(equation).jaxpr, "debug_info", None)
    return getattr(debug_info, "func_name", None) or ""


def missing_rule(equation: JaxprEqn) -> str:
    """The message for an operation without a rule."""
    name = equation.primitive.name
    function = _called_function(equation) if name in CALLS else ""
    operation = f"{function} ({name})" if function else name
    if _is_complex(equation):
        return (
            f"the function uses the operation {operation} of complex numbers, and the formulas here are for real "
            "numbers. Use jax.grad of apply, or put the whole computation, from real input to real output, into one "
            "child that is a Layer with a backward pass."
        )
    return (
        f"the function uses the operation {operation}, which has no backward pass by hand here. Use jax.grad of apply, "
        "or make the operation one of the children: an activation such as functional_nn.relu, "
        "functional_nn.Activation(name, function, derivative), or a Layer with a backward pass."
    )


def _read(values: Mapping[int, jax.Array], place: Place) -> jax.Array:
    if isinstance(place, Literal):
        return jnp.asarray(place.val, jnp.result_type(place.aval))
    return values[place]


def _scope(step: Step) -> AbstractContextManager[object]:
    """The scope in which a step was traced, such as one that a user named."""
    return jax.named_scope(step.scope) if step.scope else nullcontext()


def _is_literal(place: Place) -> bool:
    return isinstance(place, Literal)


def _has_cotangent(kind: ShapedArray) -> bool:
    return jnp.issubdtype(kind.dtype, jnp.inexact)


def signature(tape: Tape) -> str:
    """A text that is equal for equal programs."""
    lines: list[Any] = [tape.inputs, tape.outputs, tape.kept]
    for step in tape.steps:
        types = [str(variable.aval) for variable in (*step.equation.invars, *step.equation.outvars)]
        lines.append((step.equation.primitive.name, step.equation.params, step.inputs, step.outputs, types, step.scope))
    return "\n".join(map(str, lines))
