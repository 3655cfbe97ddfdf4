"""Evaluation of a traced function, equation by equation, in numbers of many digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.multiprecision import data_movement, elementwise, products, reductions
from functional_nn.gradients.multiprecision.control_flow import CONTROL, Operand
from functional_nn.gradients.multiprecision.numbers import Arithmetic
from functional_nn.gradients.multiprecision.rules import Points, Values
from functional_nn.jaxprs.evaluate import Compute, EquationPath, bind, evaluate
from functional_nn.jaxprs.inner_programs import CALLS, array_type

RULES = elementwise.RULES | reductions.RULES | products.RULES | data_movement.RULES

Results: TypeAlias = list[Operand]
VARYING: Any = object()
"""Any value that depends on the inputs, before the inputs are known."""


class Program:
    """A function of arrays, traced once.

    What does not depend on the inputs (random bits, masks, labels, numbers made of them) is computed by JAX itself, as
    in the program. The rest is computed in the arithmetic, from the exact binary values of the inputs and literals.

    Args:
        function: ``function(leaves) -> outputs``, lists of floating-point arrays.
        leaves: arrays of the shapes and types that it is traced for.
    """

    def __init__(self, function: Callable[[list[Any]], Sequence[Any]], leaves: Sequence[Any]):
        self._program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
        self._constant_results: dict[EquationPath, Results] = {}
        evaluate(self._program, [VARYING for _ in leaves], self._find_constant)

    def _find_constant(
        self, path: EquationPath, equation: JaxprEqn, operands: list[Any], compute: Compute
    ) -> list[Any]:
        """The hook that keeps the results of the outermost equations that do not depend on the inputs."""
        if any(operand is VARYING for operand in operands):
            return [VARYING for _ in equation.outvars]
        results = _computed_by_jax(equation, operands, compute)
        if len(path) == 1:
            self._constant_results[path] = results
        return results

    @property
    def numbers(self) -> int:
        """The least count of numbers that one evaluation makes: the memory that it takes for every point."""
        jaxpr = self._program.jaxpr
        made = list(jaxpr.invars)
        for number, equation in enumerate(jaxpr.eqns):
            if (number,) not in self._constant_results:
                made += equation.outvars
        return sum(array_type(variable).size for variable in made)

    @property
    def outputs(self) -> int:
        """How many elements all outputs have."""
        return sum(array_type(variable).size for variable in self._program.jaxpr.outvars)

    def __call__(self, arithmetic: Arithmetic, leaves: Sequence[Values]) -> Values:
        """All elements of all outputs, (elements, points), from leaves of shape (\\*shape, points)."""
        hook = _InManyDigits(arithmetic, self._constant_results)
        outputs = [hook.lift(y) for y in evaluate(self._program, [Points(leaf) for leaf in leaves], hook)]
        points = max(leaf.shape[-1] for leaf in leaves)
        flat = [np.broadcast_to(y, (*y.shape[:-1], points)).reshape(-1, points) for y in outputs]
        return np.concatenate(flat)


def _computed_by_jax(equation: JaxprEqn, operands: Sequence[Operand], compute: Compute) -> Results:
    """The results of an equation whose operands do not depend on the inputs."""
    return compute(operands) if equation.primitive.name in CALLS else list(bind(equation, operands))


class _InManyDigits:
    """The hook that evaluates in an arithmetic. Values are ``Points``, or arrays if they do not depend on the inputs.

    Args:
        arithmetic: of the values that depend on the inputs.
        constant_results: the results of outermost equations that do not depend on the inputs, by path.
    """

    def __init__(self, arithmetic: Arithmetic, constant_results: dict[EquationPath, Results]):
        self._arithmetic = arithmetic
        self._constant_results = constant_results

    def __call__(self, path: EquationPath, equation: JaxprEqn, operands: list[Operand], compute: Compute) -> Results:
        name = equation.primitive.name
        if path in self._constant_results:
            return self._constant_results[path]
        if not any(isinstance(operand, Points) for operand in operands):
            return _computed_by_jax(equation, operands, compute)
        if name in CALLS:
            return compute(operands)
        if name in CONTROL:
            return CONTROL[name](self._run, self.lift, equation, operands)
        return self._apply(equation, operands)

    def lift(self, value: Operand) -> Values:
        """Any value as ``Values``; an array has the same ones at all points."""
        if isinstance(value, Points):
            return value.values
        array = np.asarray(value)
        return (self._arithmetic.numbers(array) if elementwise.is_floating(array) else array)[..., None]

    def _run(self, program: ClosedJaxpr, operands: Sequence[Operand]) -> Results:
        return evaluate(program, operands, self, path=(0, 0))  # inside an equation, not among the outermost ones

    def _apply(self, equation: JaxprEqn, operands: list[Operand]) -> Results:
        """The results by the rule of the primitive."""
        name = equation.primitive.name
        if name not in RULES:
            remedy = "Where another reference knows no operation either, difference_jacobian takes any function."
            raise InputError("function", "operations with a rule", f"{name}, used in {_place(equation)}", remedy)
        outputs = RULES[name](self._arithmetic, equation, *(self.lift(operand) for operand in operands))
        if not isinstance(outputs, list):
            outputs = [outputs]
        for output, variable in zip(outputs, equation.outvars, strict=True):
            if output.shape[:-1] != array_type(variable).shape:
                raise AssertionError(f"the rule for {name} made {output.shape[:-1]} of {variable.aval}")
        return [Points(output) for output in outputs]


def _place(equation: JaxprEqn) -> str:
    """The user's line: the innermost that is not JAX's own."""
    traceback = equation.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    library = Path(jax.__file__).parent
    for frame in frames:
        if library not in Path(frame.file_name).parents:
            return f"{Path(frame.file_name).name}, line {frame.line_num}"
    return "a place that is not known"
