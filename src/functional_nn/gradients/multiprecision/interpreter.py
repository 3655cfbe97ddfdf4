"""Evaluation of a traced function, equation by equation, with many digits of precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.multiprecision import (
    complex_rules,
    data_movement,
    decompositions,
    elementwise,
    products,
    reductions,
)
from functional_nn.gradients.multiprecision.control_flow import CONTROL, Operand
from functional_nn.gradients.multiprecision.numbers import Arithmetic
from functional_nn.gradients.multiprecision.rules import Points, Values
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, bind, evaluate
from functional_nn.jaxprs.walk import CALLS, array_type, place_of

RULES = elementwise.RULES | reductions.RULES | products.RULES | data_movement.RULES | decompositions.RULES

Array: TypeAlias = jax.Array | np.ndarray
Results: TypeAlias = list[Operand]
VARYING: Value = object()
"""Stands for any value that depends on the inputs, while the inputs are not yet known."""


class Program:
    """A function of arrays, traced once.

    Some values do not depend on the inputs: random bits, masks, labels, and numbers computed from them. JAX computes
    them, as in the original program. The arithmetic computes everything else, from the exact binary values of the
    inputs and literals.

    Args:
        function: ``function(leaves) -> outputs``, lists of floating-point arrays.
        leaves: arrays with the shapes and types for which the function is traced.
    """

    def __init__(self, function: Callable[[list[Array]], Sequence[Array]], leaves: Sequence[Array]):
        self._program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
        self._constant_results: dict[EquationPath, Results] = {}
        evaluate(self._program, [VARYING for _ in leaves], self._find_constant)

    def _find_constant(
        self, path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute
    ) -> list[Value]:
        """The hook that stores results which do not depend on the inputs, for equations at the top level."""
        if any(operand is VARYING for operand in operands):
            return [VARYING for _ in equation.outvars]
        results = _computed_by_jax(equation, operands, compute)
        # A call with constant operands is stored as a whole, so the equations inside it need not be stored.
        if len(path) == 1:
            self._constant_results[path] = results
        return results

    @property
    def numbers(self) -> int:
        """How many numbers one evaluation makes for each point, at least. This estimates the memory that it needs."""
        jaxpr = self._program.jaxpr
        made = list(jaxpr.invars)
        for number, equation in enumerate(jaxpr.eqns):
            if (number,) not in self._constant_results:
                made += equation.outvars
        return sum(array_type(variable).size for variable in made)

    @property
    def outputs(self) -> int:
        """The number of elements in all outputs together."""
        return sum(array_type(variable).size for variable in self._program.jaxpr.outvars)

    def __call__(self, arithmetic: Arithmetic, leaves: Sequence[Values]) -> Values:
        """Evaluates the function. Leaves have shape (\\*shape, points); the result is (output elements, points)."""
        hook = _InManyDigits(arithmetic, self._constant_results)
        outputs = [hook.lift(y) for y in evaluate(self._program, [Points(leaf) for leaf in leaves], hook)]
        points = max(leaf.shape[-1] for leaf in leaves)
        # An output that does not depend on the inputs has one point so far.
        flat = [np.broadcast_to(y, (*y.shape[:-1], points)).reshape(-1, points) for y in outputs]
        return np.concatenate(flat)


def _computed_by_jax(equation: JaxprEqn, operands: Sequence[Operand], compute: Compute) -> Results:
    """The results of an equation whose operands do not depend on the inputs."""
    return compute(operands) if equation.primitive.name in CALLS else list(bind(equation, operands))


class _InManyDigits:
    """The hook that computes with many digits. Values that depend on the inputs are ``Points``, all others arrays.

    Args:
        arithmetic: computes the values that depend on the inputs.
        constant_results: results that do not depend on the inputs, by the path of their equation at the top level.
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
        # A call is entered, because some equations inside it may not depend on the inputs.
        if name in CALLS:
            return compute(operands)
        if name in CONTROL:
            return CONTROL[name](self._run, self.lift, equation, operands)
        return self._apply(equation, operands)

    def lift(self, value: Operand) -> Values:
        """Converts a value to ``Values``. An ordinary array has the same values at all points."""
        if isinstance(value, Points):
            return value.values
        array = np.asarray(value)
        is_inexact = jnp.issubdtype(array.dtype, jnp.inexact)
        return (self._arithmetic.numbers(array) if is_inexact else array)[..., None]

    def _run(self, program: ClosedJaxpr, operands: Sequence[Operand]) -> Results:
        # With this path, no equation inside has a path of length 1, which could be in ``_constant_results``.
        return evaluate(program, operands, self, path=(0, 0))

    def _apply(self, equation: JaxprEqn, operands: list[Operand]) -> Results:
        """Computes the results of an equation by the rule of its primitive."""
        name = equation.primitive.name
        rules = complex_rules.RULES if complex_rules.is_complex(equation) else RULES
        if name not in rules:
            remedy = "Where another reference knows no operation either, difference_jacobian takes any function."
            raise InputError(
                "function",
                "operations with a rule",
                f"{name}, used in {place_of(equation) or 'an unknown place'}",
                remedy,
            )
        outputs = rules[name](self._arithmetic, equation, *(self.lift(operand) for operand in operands))
        if not isinstance(outputs, list):
            outputs = [outputs]
        for output, variable in zip(outputs, equation.outvars, strict=True):
            if output.shape[:-1] != array_type(variable).shape:
                raise AssertionError(f"the rule for {name} made {output.shape[:-1]} of {variable.aval}")
        return [Points(output) for output in outputs]
