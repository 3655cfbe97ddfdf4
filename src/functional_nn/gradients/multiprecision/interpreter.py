"""Evaluates the forward pass that JAX traced, equation by equation, in an arithmetic of choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from functional_nn.core.errors import InputError
from functional_nn.gradients.multiprecision import data_movement as movement
from functional_nn.gradients.multiprecision import elementwise, products, reductions
from functional_nn.gradients.multiprecision.control_flow import CONTROL
from functional_nn.gradients.multiprecision.rules import Arithmetic, Points, Values

CALLS = {
    **dict.fromkeys(("jit", "pjit", "closed_call", "remat2", "remat", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("core_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
"""What only calls another program, and which parameter holds it. Derivatives that it may bring are not looked at."""

COMPUTING = elementwise.COMPUTING | reductions.COMPUTING | products.COMPUTING
RULES = COMPUTING | elementwise.CHOOSING | reductions.CHOOSING | movement.MOVING


class Program:
    """A function of arrays, traced once.

    What does not depend on the inputs (random bits, masks, labels, numbers made of them) is computed by JAX itself, as
    in the program; the rest in the arithmetic, from the exact binary values of the inputs and literals.

    Args:
        function: ``function(leaves) -> outputs``, lists of floating-point arrays.
        leaves: arrays of the shapes and types that it is traced for.
    """

    def __init__(self, function: Callable[[list[Any]], Sequence[Any]], leaves: Sequence[Any]):
        closed = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
        self._jaxpr: Any = closed.jaxpr
        self._known = dict(zip(self._jaxpr.constvars, closed.consts, strict=True))
        self._equations: list[Any] = []
        varying = set(self._jaxpr.invars)
        for equation in self._jaxpr.eqns:
            if any(variable in varying for variable in equation.invars if not isinstance(variable, Literal)):
                self._equations.append(equation)
                varying.update(equation.outvars)
            else:
                _Evaluation(None, self._known).compute(equation)

    @property
    def numbers(self) -> int:
        """How many numbers one evaluation makes, at the least: what it takes of memory for every point."""
        made: list[Any] = [*self._jaxpr.invars, *(out for equation in self._equations for out in equation.outvars)]
        return sum(int(np.prod(variable.aval.shape)) for variable in made)

    @property
    def outputs(self) -> int:
        """How many elements all outputs have."""
        return sum(int(np.prod(variable.aval.shape)) for variable in self._jaxpr.outvars)

    def __call__(self, arithmetic: Arithmetic, leaves: Sequence[Values]) -> Values:
        """All elements of all outputs, (elements, points), from leaves of shape (\\*shape, points)."""
        values = self._known | {v: Points(leaf) for v, leaf in zip(self._jaxpr.invars, leaves, strict=True)}
        evaluation = _Evaluation(arithmetic, values)
        for equation in self._equations:
            evaluation.compute(equation)
        outputs = [evaluation.lift(evaluation.read(variable)) for variable in self._jaxpr.outvars]
        points = max(leaf.shape[-1] for leaf in leaves)
        flat = [np.broadcast_to(y, (*y.shape[:-1], points)).reshape(-1, points) for y in outputs]
        return np.concatenate(flat)


class _Evaluation:
    """The values of variables so far, each ``Points`` or, where it does not depend on the inputs, an ordinary array."""

    def __init__(self, arithmetic: Arithmetic | None, values: dict[Any, Any]):
        self._arithmetic: Any = arithmetic
        self._values = values

    def read(self, variable: Any) -> Any:
        """A literal has the precision of the program: 0.1 in a float32 program is float32(0.1)."""
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            return np.asarray(variable.val, aval.dtype)
        return self._values[variable]

    def lift(self, value: Any) -> Values:
        """What does not depend on the inputs, as values that agree at all points."""
        if isinstance(value, Points):
            return value.values
        array = np.asarray(value)
        return (self._arithmetic.numbers(array) if elementwise.is_floating(array) else array)[..., None]

    def compute(self, equation: Any) -> None:
        operands = [self.read(variable) for variable in equation.invars]
        name = equation.primitive.name
        if name in CALLS:
            outputs = self._run(equation.params[CALLS[name]], operands)
        elif not any(isinstance(operand, Points) for operand in operands):
            outputs = equation.primitive.bind(*operands, **equation.params)
        elif name in CONTROL:
            outputs = CONTROL[name](self._run, self.lift, equation, operands)
        else:
            outputs = self._apply(equation, list(map(self.lift, operands)))
        many = equation.primitive.multiple_results
        self._values.update(zip(equation.outvars, outputs if many else [outputs], strict=True))

    def _run(self, program: Any, operands: Sequence[Any]) -> list[Any]:
        jaxpr, consts = (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, [])
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *operands), strict=True))
        inner = _Evaluation(self._arithmetic, values)
        for equation in jaxpr.eqns:
            inner.compute(equation)
        return [inner.read(variable) for variable in jaxpr.outvars]

    def _apply(self, equation: Any, operands: list[Values]) -> Any:
        name = equation.primitive.name
        if name not in RULES:
            remedy = "Where another reference knows no operation either, difference_jacobian takes any function."
            raise InputError("function", "operations with a rule", f"{name}, used in {_place(equation)}", remedy)
        if name in COMPUTING:
            operands = list(map(self._arithmetic.rounded, operands))
        outputs = RULES[name](self._arithmetic, equation, *operands)
        if not isinstance(outputs, list):
            outputs = [outputs]
        for output, variable in zip(outputs, equation.outvars, strict=True):
            if output.shape[:-1] != variable.aval.shape:
                raise AssertionError(f"the rule for {name} made {output.shape[:-1]} of {variable.aval.shape}")
        made = list(map(Points, outputs))
        return made if equation.primitive.multiple_results else made[0]


def _place(equation: Any) -> str:
    """The user's line: the innermost that is not JAX's own."""
    traceback = equation.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    library = Path(jax.__file__).parent
    for frame in frames:
        if library not in Path(frame.file_name).parents:
            return f"{Path(frame.file_name).name}, line {frame.line_num}"
    return "a place that is not known"
