"""Evaluation of a traced program that records which operations read or made numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, bind, evaluate, with_axes
from functional_nn.jaxprs.inner_programs import CALLS, array_type, branches, scan_parts, while_parts
from functional_nn.jaxprs.source_lines import Place, is_of_jax, place_of, users_place_of
from functional_nn.jaxprs.walk import within

Mask: TypeAlias = np.ndarray
"""An array of booleans that marks elements of an array of the same shape."""

STEEP_AT: dict[str, tuple[float, ...]] = {
    "acos": (-1, 1),
    "acosh": (1,),
    "asin": (-1, 1),
    "atan2": (0,),
    "atanh": (-1, 1),
    "cbrt": (0,),
    "digamma": (0,),
    "div": (0,),
    "erf_inv": (-1, 1),
    "integer_pow": (0,),
    "lgamma": (0,),
    "log": (0,),
    "log1p": (-1,),
    "log2": (0,),
    "pow": (0,),
    "rsqrt": (0,),
    "sqrt": (0,),
}
"""The arguments, or divisors, at which the derivative of an operation is infinite or not defined."""
STEEP_FOR_MATRICES = frozenset(("eigh", "svd"))
"""Operations with derivatives that are infinite if two eigenvalues or singular values are equal."""
NEAR = 1e-6
"""An argument that is at most this far from such a point counts."""

ROW, ROWS = "row of a scan", "rows of a scan"
"""The kinds of operations by which a step of a ``scan`` reads its row of an array, and by which the rows that all steps
have written become an array."""


@dataclass(eq=False)
class Tracked:
    """A value of the evaluation.

    Args:
        array: the value.
        not_finite: which of its elements are not finite; None if all are.
        source: the operation that made it, if it was recorded; None for an argument or a constant.
        number: the index among the results of this operation, or among the arguments; -1 for all other values.
    """

    array: jax.Array
    not_finite: Mask | None
    source: Operation | None = None
    number: int = -1

    @property
    def is_bad_constant(self) -> bool:
        """Whether it is a constant of the program that is not finite, or made of such a constant alone."""
        if self.source is not None:
            return len(self.source.operands) == 1 and self.source.operands[0].is_bad_constant
        return self.not_finite is not None and self.number < 0


@dataclass(eq=False)
class Operation:
    """One run of an equation that read or made a number that is not finite.

    Args:
        order: when it ran. Later operations have larger numbers.
        equation: the equation.
        kind: the name of its primitive, or ``ROW`` or ``ROWS``.
        scope: the names of the layers and transforms around it.
        written_in: the equation whose source line counts: the equation itself, or the call of a function of JAX.
        jax_function: the name of the function of JAX that it is a part of, such as ``norm``; or "".
        steps: for each loop around it, the kind of the loop and the number of the step.
        operands: what it read.
        results: what it made.
        readers: the recorded operations that read non-finite elements of its results.
    """

    order: int
    equation: JaxprEqn
    kind: str
    scope: str
    written_in: JaxprEqn
    jax_function: str
    steps: tuple[tuple[str, int], ...]
    operands: Sequence[Tracked]
    results: Sequence[Tracked] = ()
    readers: list[Operation] = field(default_factory=list)

    @property
    def place(self) -> Place | None:
        """The source line."""
        return place_of(self.written_in)

    @property
    def users_place(self) -> Place | None:
        """The source line outside of installed packages that it comes from."""
        return users_place_of(self.written_in)


class Recorder:
    """A hook for ``evaluate`` that records operations. Loops and branches are run in Python, step by step.

    Attributes:
        operations: the recorded operations, in the order in which they ran.
        steep: the equations of the forward pass with derivatives that may not be finite, by name and identity.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.steep: dict[tuple[str, int], JaxprEqn] = {}
        self._order = 0
        self._scope = ""
        self._steps: tuple[tuple[str, int], ...] = ()
        self._jax_function: JaxprEqn | None = None
        self._around: JaxprEqn | None = None  # the innermost equation around with a source line

    def run(self, program: ClosedJaxpr, arguments: Sequence[jax.Array]) -> list[Tracked]:
        """Evaluates the program and returns its results."""
        tracked = [Tracked(array, not_finite(array), None, number) for number, array in enumerate(arguments)]
        return [_tracked(result) for result in evaluate(program, tracked, self)]

    def __call__(self, path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
        operands = [_tracked(operand) for operand in operands]
        name = equation.primitive.name
        if name in CALLS:
            with self._inside(equation):
                return compute(operands)
        if name == "scan":
            return self._run_scan(path, equation, operands)
        if name == "while":
            return self._run_while(path, equation, operands)
        if name == "cond":
            return self._run_cond(path, equation, operands)
        results = bind(equation, [operand.array for operand in operands])
        if "transpose(" not in self._scope_of(equation) and _is_steep(equation, [value.array for value in operands]):
            written_in = self._written_in(equation)
            self.steep[name, id(written_in)] = written_in
        return self._recorded(equation, name, operands, results)

    def steep_places(self) -> list[tuple[tuple[str, int], Place | None]]:
        """The names of the operations in ``steep`` with their source lines."""
        return [(key, place_of(equation)) for key, equation in self.steep.items()]

    # Loops and branches

    def _run_scan(self, path: EquationPath, equation: JaxprEqn, operands: list[Tracked]) -> list[Tracked]:
        loop = scan_parts(equation)
        constants, carry, inputs = loop.split_operands(operands)
        steps = range(loop.length)
        rows: list[list[Tracked]] = []
        for step in reversed(steps) if loop.reverse else steps:
            with self._inside(equation, ("scan", step)):
                inputs_of_step = [self._take(equation, x, step) for x in inputs]
                results = evaluate(loop.body, [*constants, *carry, *inputs_of_step], self, (*path, 0))
            carry, row = loop.split_results([_tracked(result) for result in results])
            rows.append(row)
        if loop.reverse:
            rows.reverse()
        if not rows:
            types = [array_type(variable) for variable in equation.outvars[loop.carried :]]
            return [*carry, *(Tracked(jnp.zeros(output.shape, output.dtype), None) for output in types)]
        return [*carry, *(self._stack(equation, column) for column in zip(*rows, strict=True))]

    def _take(self, equation: JaxprEqn, x: Tracked, step: int) -> Tracked:
        """One step's part of an array."""
        (taken,) = self._recorded(equation, ROW, [x], [_at(x.array, step)])
        return taken

    def _stack(self, equation: JaxprEqn, column: Sequence[Tracked]) -> Tracked:
        """The array that the steps of a loop have written."""
        arrays = [value.array for value in column]
        is_number = jnp.issubdtype(arrays[0].dtype, np.generic)
        stacked = jnp.asarray(np.stack([np.asarray(array) for array in arrays])) if is_number else jnp.stack(arrays)
        (result,) = self._recorded(equation, ROWS, column, [stacked])
        return result

    def _run_while(self, path: EquationPath, equation: JaxprEqn, operands: list[Tracked]) -> list[Tracked]:
        loop = while_parts(equation)
        condition_constants, body_constants, carry = loop.split_operands(operands)
        step = 0
        while True:
            with self._inside(equation, ("while", step)):
                (condition,) = evaluate(loop.condition, [*condition_constants, *carry], self, (*path, 1))
                goes_on = np.asarray(_tracked(condition).array)
                if not goes_on.any():
                    return carry
                after = evaluate(loop.body, [*body_constants, *carry], self, (*path, 0))
                if not goes_on.all():
                    # Under ``vmap``, every example has a condition of its own.
                    after = self._selected(_tracked(condition), [_tracked(value) for value in after], carry)
            carry = [_tracked(value) for value in after]
            step += 1

    def _selected(self, which: Tracked, new: Sequence[Tracked], old: Sequence[Tracked]) -> list[Value]:
        """The new value for the examples where ``which`` is true, and the old one for the others."""

        def select(which: jax.Array, new: list[jax.Array], old: list[jax.Array]) -> list[jax.Array]:
            return [jnp.where(with_axes(which, a), a, b) for a, b in zip(new, old, strict=True)]

        arrays = which.array, [value.array for value in new], [value.array for value in old]
        return evaluate(jax.make_jaxpr(select)(*arrays), [which, *new, *old], self)

    def _run_cond(self, path: EquationPath, equation: JaxprEqn, operands: list[Tracked]) -> list[Tracked]:
        index, *others = operands
        programs = branches(equation)
        number = int(np.clip(np.asarray(index.array), 0, len(programs) - 1))
        with self._inside(equation):
            return [_tracked(result) for result in evaluate(programs[number], others, self, (*path, number))]

    # Records

    def _recorded(
        self, equation: JaxprEqn, kind: str, operands: Sequence[Tracked], arrays: Sequence[jax.Array]
    ) -> list[Tracked]:
        """The results of an operation. It is recorded if something in it is not finite."""
        self._order += 1
        masks = [not_finite(array) for array in arrays]
        if all(value.not_finite is None for value in operands) and all(mask is None for mask in masks):
            return [Tracked(array, None) for array in arrays]
        jax_function = self._jax_function.params["name"].strip("_") if self._jax_function else ""
        scope, written_in = self._scope_of(equation), self._written_in(equation)
        operation = Operation(self._order, equation, kind, scope, written_in, jax_function, self._steps, operands)
        operation.results = [
            Tracked(array, mask, operation, number)
            for number, (array, mask) in enumerate(zip(arrays, masks, strict=True))
        ]
        for operand in operands:
            if operand.not_finite is not None and operand.source is not None:
                operand.source.readers.append(operation)
        self.operations.append(operation)
        return list(operation.results)

    def _scope_of(self, equation: JaxprEqn) -> str:
        return within(self._scope, equation)

    def _written_in(self, equation: JaxprEqn) -> JaxprEqn:
        # JAX keeps the traces of its own functions, so the lines in these may belong to another caller. An equation of
        # jnp.log has no line outside of JAX if this function itself is a branch, as in lax.cond(x > 0, jnp.log, …).
        if self._jax_function is not None:
            return self._jax_function
        return equation if self._around is None or place_of(equation) else self._around

    @contextmanager
    def _inside(self, equation: JaxprEqn, step: tuple[str, int] | None = None) -> Iterator[None]:
        """Remembers where the evaluation is, while the programs inside an equation run."""
        before = self._scope, self._steps, self._jax_function, self._around
        if place_of(equation):
            self._around = equation
        if self._jax_function is None and is_of_jax(equation):
            self._jax_function = equation
        if step is None:
            self._scope = self._scope_of(equation)
        else:
            self._scope, self._steps = self._scope_of(equation), (*self._steps, step)
        try:
            yield
        finally:
            self._scope, self._steps, self._jax_function, self._around = before


def _is_steep(equation: JaxprEqn, operands: Sequence[jax.Array]) -> bool:
    """Whether the derivative of an equation may be infinite or not defined at some element of its operands."""
    name = equation.primitive.name
    if name in STEEP_FOR_MATRICES:
        return True
    # x², whose parameter y is 2, has a finite derivative.
    if name not in STEEP_AT or equation.params.get("y", -1) >= 0:
        return False
    argument = np.asarray(operands[-1] if name == "div" else operands[0])
    argument = argument.astype(np.complex128 if np.iscomplexobj(argument) else np.float64)
    return any((np.abs(argument - point) <= NEAR).any() for point in STEEP_AT[name])


def _tracked(value: Tracked | jax.Array) -> Tracked:
    """Tracks a value of the evaluation. A value that is not tracked yet is a constant of the program."""
    return value if isinstance(value, Tracked) else Tracked(value, not_finite(value))


def not_finite(array: jax.Array) -> Mask | None:
    """Which elements of an array are NaN or infinite; None if all are finite. Integers and keys always are."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return None
    mask = np.asarray(~np.isfinite(np.asarray(array)))
    return mask if mask.any() else None


def _at(array: jax.Array, step: int) -> jax.Array:
    """One row of an array. NumPy takes it, which compiles nothing; random keys exist as JAX arrays only."""
    is_number = jnp.issubdtype(array.dtype, np.generic)
    return jnp.asarray(np.asarray(array)[step]) if is_number else array[step]
