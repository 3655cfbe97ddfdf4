"""Evaluation of a traced function, equation by equation, with many digits of precision, or with the inputs that each
output depends on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn
from numpy.typing import ArrayLike

from functional_nn.core.errors import InputError
from functional_nn.gradients.digits import decompositions as decompositions  # it adds its rules to those of operations
from functional_nn.gradients.digits import operations
from functional_nn.gradients.digits.numbers import (
    SPECIAL,
    SPECIAL_BY_MPMATH,
    Arithmetic,
    Function,
    Number,
    Points,
    Values,
    together,
)
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, bind, evaluate
from functional_nn.jaxprs.walk import CALLS, array_type, branches, closed, place_of, scan_parts, while_parts

Operand: TypeAlias = Points | np.ndarray | jax.Array
Run: TypeAlias = Callable[[ClosedJaxpr, Sequence[Operand]], list[Operand]]
"""``run(program, operands) -> results``."""
Lift: TypeAlias = Callable[[Operand], Values]
"""``lift(operand) -> values``."""
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
        if not operations.has_rule(equation):
            remedy = "Where another reference knows no operation either, difference_jacobian takes any function."
            raise InputError(
                "function",
                "operations with a rule",
                f"{name}, used in {place_of(equation) or 'an unknown place'}",
                remedy,
            )
        outputs = operations.RULES[name](self._arithmetic, equation, *(self.lift(operand) for operand in operands))
        if not isinstance(outputs, list):
            outputs = [outputs]
        for output, variable in zip(outputs, equation.outvars, strict=True):
            if output.shape[:-1] != array_type(variable).shape:
                raise AssertionError(f"the rule for {name} made {output.shape[:-1]} of {variable.aval}")
        return [Points(output) for output in outputs]


def scan(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """The results of a ``scan``."""
    loop = scan_parts(equation)
    constants, carry, inputs = loop.split_operands(operands)
    inputs = [_in_memory(x) for x in inputs]
    rows: list[list[Operand]] = []
    steps = range(loop.length)
    for step in reversed(steps) if loop.reverse else steps:
        results = run(loop.body, [*constants, *carry, *(_at(x, step) for x in inputs)])
        carry, row = loop.split_results(results)
        rows.append(row)
    if loop.reverse:
        rows.reverse()
    if rows:
        outputs = [_stacked(lift, column) for column in zip(*rows, strict=True)]
    else:
        types = [array_type(variable) for variable in equation.outvars[loop.carried :]]
        outputs = [np.zeros(output.shape, output.dtype) for output in types]
    return [*carry, *outputs]


def _in_memory(x: Operand) -> Operand:
    """Converts an array to NumPy, where reading one step is fast. Random keys exist only as JAX arrays and stay so."""
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return x if isinstance(x, Points) or is_key else np.asarray(x)


def _at(x: Operand, step: int) -> Operand:
    return Points(x.values[step]) if isinstance(x, Points) else x[step]


def _stacked(lift: Lift, values: Sequence[Operand]) -> Operand:
    arrays = [value for value in values if not isinstance(value, Points)]
    if len(arrays) == len(values):
        return jnp.stack(arrays)
    return Points(np.stack(together(*(lift(value) for value in values))))


def cond(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """Evaluates a ``cond``. Each point gets the results of the branch that it takes."""
    index, *others = operands
    programs = branches(equation)
    numbers = np.asarray(index.values if isinstance(index, Points) else index, int)
    numbers = np.clip(numbers, 0, len(programs) - 1)  # as JAX does
    # Each branch that some point takes is run for all points. Then every point keeps the results of its own branch.
    first, *rest = np.unique(numbers)
    results = run(programs[first], others)
    for number in rest:
        results = _selected(lift, numbers == number, run(programs[number], others), results)
    return results


def while_loop(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """Evaluates a ``while``. When the loop of a point has ended, its values stay fixed and the other points go on."""
    loop = while_parts(equation)
    condition_constants, body_constants, carry = loop.split_operands(operands)

    def goes_on() -> np.ndarray:
        (go_on,) = run(loop.condition, [*condition_constants, *carry])
        # A condition that does not depend on the inputs is the same at all points. It gets their axis all the same.
        return np.asarray(go_on.values if isinstance(go_on, Points) else np.asarray(go_on)[..., None], bool)

    while (going := goes_on()).any():
        after = run(loop.body, [*body_constants, *carry])
        carry = after if going.all() else _selected(lift, going, after, carry)
    return carry


def _selected(lift: Lift, which: np.ndarray, new: Sequence[Operand], old: Sequence[Operand]) -> list[Operand]:
    """Takes the new value at the points where ``which`` is true, and the old value at all other points.

    ``which`` has only the first axes of the values if it is the condition of a loop under ``vmap``.
    """
    results: list[Operand] = []
    for a, b in zip(map(lift, new), map(lift, old), strict=True):
        # The new axes are between the axes of the condition and the last axis, the points.
        axes = range(which.ndim - 1, max(a.ndim, b.ndim) - 1)
        results.append(Points(np.where(np.expand_dims(which, tuple(axes)), a, b)))
    return results


def custom_linear_solve(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """Solves a linear system with the ``solve`` program of the equation."""
    counts, programs = equation.params["const_lengths"], equation.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    right_sides = operands[sum(counts) :]
    return run(closed(programs.solve), [*operands[start : start + counts.solve], *right_sides])


CONTROL = {"scan": scan, "cond": cond, "while": while_loop, "custom_linear_solve": custom_linear_solve}


WHOLE = ("floor", "ceil")
"""Functions whose values do not change between two whole numbers."""
COST_OF_FUNCTION, COST_OF_SPECIAL = 20, 5000
"""How many times longer an exponential, or a gamma function, takes than a product, with about 400 digits."""


class Dependence(NamedTuple):
    """The outputs of one evaluation of a program, and the inputs that they depend on.

    Args:
        values: the outputs, as numbers of many digits, (m,).
        sources: for each leaf, whether an output was computed from a chosen element of it, (m, columns).
        tied: for each leaf, whether a number that was computed from a chosen element was compared with an equal number.
            If such an element changes, a selection may take another number, and ``sources`` is no longer valid.
        cost: about how long the evaluation takes, in sums or products of numbers.
    """

    values: np.ndarray
    sources: list[np.ndarray]
    tied: list[np.ndarray]
    cost: int


def dependence(program: Program, leaves: Sequence[ArrayLike], columns: Sequence[np.ndarray], digits: int) -> Dependence:
    """Evaluates a program at one point, and finds out which elements of the inputs each output is computed from.

    Every number has a set of sources. The result of an operation has the sources of all its operands, with three
    exceptions. A selection or a maximum has the sources of the number that it takes. A product with a constant 0 has no
    sources. A comparison, or rounding to whole numbers, has none either. So an output changes near this point only if
    one of its sources changes. The converse is false: x - x has the source x, but does not change.

    Args:
        program: the program.
        leaves: the point.
        columns: for each leaf, the flat indices of the chosen elements.
        digits: the digits of the numbers.
    """
    arithmetic = _SourceArithmetic(digits)
    with arithmetic.precision():
        y = program(arithmetic, _inputs(arithmetic, leaves, columns))[:, 0]
    values = _array_of([number.value for number in y])
    ends = np.cumsum([len(chosen) for chosen in columns])
    # One row for each output, and a last row for the ties.
    flags = _as_booleans([*(number.sources for number in y), arithmetic.tied], ends[-1])
    by_leaf = np.split(flags, ends[:-1], 1)
    return Dependence(values, [leaf[:-1] for leaf in by_leaf], [leaf[-1] for leaf in by_leaf], arithmetic.cost)


def _inputs(
    arithmetic: _SourceArithmetic, leaves: Sequence[ArrayLike], columns: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The leaves as numbers with sources. Each chosen element is its own source: one bit of an integer."""
    inputs, bit = [], 0
    for leaf, chosen in zip(leaves, columns, strict=True):
        flat: list[_SourcedNumber] = arithmetic.numbers(leaf).reshape(-1).tolist()
        for place in chosen:
            flat[place].sources |= 1 << bit
            bit += 1
        inputs.append(_array_of(flat).reshape(*np.shape(leaf), 1))
    return inputs


def _array_of(numbers: Sequence[object]) -> np.ndarray:
    """An array of objects with one axis."""
    # The last element keeps NumPy from looking into an empty list, or into the numbers.
    return np.array([*numbers, None], object)[:-1]


def _as_booleans(sources: Sequence[int], count: int) -> np.ndarray:
    """The bits of integers, as an array (integers, count)."""
    size = count // 8 + 1
    rows = [np.frombuffer(bits.to_bytes(size, "little"), np.uint8) for bits in sources]
    stacked = np.array(rows, np.uint8).reshape(len(sources), size)
    return np.unpackbits(stacked, axis=1, count=count, bitorder="little").astype(bool)


class _SourceArithmetic(Arithmetic):
    """Arithmetic with numbers that have sources. It fills ``tied`` and ``cost`` of ``Dependence``."""

    def __init__(self, digits: int):
        super().__init__(digits)
        self.tied = 0
        self.cost = 0

    def numbers(self, array: ArrayLike) -> np.ndarray:
        plain = super().numbers(array)
        made = [_SourcedNumber(self, value, 0) for value in plain.reshape(-1)]
        return _array_of(made).reshape(plain.shape)

    def function(self, name: str) -> Function:
        of_values = super().function(name)
        if name == "divide":
            return np.frompyfunc(lambda a, b: _combined(of_values, a, b, a), 2, 1)
        if name == "is_finite":
            return np.frompyfunc(lambda x: of_values(x.value), 1, 1)
        if name in WHOLE:
            return np.frompyfunc(lambda x: self._whole(of_values(x.value), x), 1, 1)

        cost = COST_OF_SPECIAL if name in (*SPECIAL, *SPECIAL_BY_MPMATH, "lgamma") else COST_OF_FUNCTION

        def of_numbers(*operands: _SourcedNumber | Number) -> _SourcedNumber:
            self.cost += cost
            return _SourcedNumber(self, of_values(*map(_value, operands)), reduce(or_, map(_sources, operands)))

        return lambda *arrays: np.frompyfunc(of_numbers, len(arrays), 1)(*arrays)

    def of_matrix(self, decompose: Function, matrix: np.ndarray) -> list[np.ndarray]:
        self.cost += COST_OF_SPECIAL * matrix.size
        sources = reduce(or_, map(_sources, matrix.flat), 0)
        made = super().of_matrix(decompose, np.frompyfunc(_value, 1, 1)(matrix))
        return [np.frompyfunc(lambda value: _SourcedNumber(self, value, sources), 1, 1)(one) for one in made]

    def _whole(self, value: Number, x: _SourcedNumber) -> _SourcedNumber:
        # At a whole number, floor and ceil jump. Otherwise they are constant near x, and have no sources.
        if value == x.value:
            self.tied |= x.sources
        return _SourcedNumber(self, value, 0)


class _SourcedNumber:
    """A number of many digits, with the bits of its sources. Plain integers in the same operation have no sources."""

    __slots__ = ("arithmetic", "sources", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, arithmetic: _SourceArithmetic, value: Number, sources: int):
        self.arithmetic = arithmetic
        self.value = value
        self.sources = sources
        arithmetic.cost += 1

    def __add__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        return _combined(operator.add, self, other)

    def __sub__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        return _combined(operator.sub, self, other)

    def __rsub__(self, other: int) -> _SourcedNumber:
        return _SourcedNumber(self.arithmetic, other - self.value, self.sources)

    def __mul__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        return _combined(operator.mul, self, other, self, other)

    def __truediv__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        return _combined(operator.truediv, self, other, self)

    def __neg__(self) -> _SourcedNumber:
        return _SourcedNumber(self.arithmetic, -self.value, self.sources)

    def __abs__(self) -> _SourcedNumber:
        if self.value == 0:
            self.arithmetic.tied |= self.sources
        return _SourcedNumber(self.arithmetic, abs(self.value), self.sources)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    __radd__ = __add__
    __rmul__ = __mul__


def _combined(
    operate: Function, a: _SourcedNumber, b: _SourcedNumber | Number, *factors: _SourcedNumber | Number
) -> _SourcedNumber:
    """The result of an operation. If one of its factors is a constant 0, so is the result: it has no sources."""
    is_zero = any(_value(factor) == 0 and not _sources(factor) for factor in factors)
    sources = 0 if is_zero else a.sources | _sources(b)
    return _SourcedNumber(a.arithmetic, operate(a.value, _value(b)), sources)


def _compared(compare: Callable[[Number, Number], bool]) -> Callable[[_SourcedNumber, object], bool]:
    """Makes a comparison, which notes the sources of equal numbers."""

    def method(a: _SourcedNumber, b: object) -> bool:
        value = _value(b)
        # ``maximum`` compares a number with itself to find NaN. That is no tie.
        if a.value == value and a is not b:
            a.arithmetic.tied |= a.sources | _sources(b)
        return compare(a.value, value)

    return method


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(_SourcedNumber, f"__{_name}__", _compared(getattr(operator, _name)))


def _value(number: object) -> Number:
    return number.value if isinstance(number, _SourcedNumber) else number


def _sources(number: object) -> int:
    return number.sources if isinstance(number, _SourcedNumber) else 0
