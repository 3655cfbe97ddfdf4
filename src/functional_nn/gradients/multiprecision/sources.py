"""Numbers that remember which elements of the inputs they were computed from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.multiprecision.numbers import SPECIAL, SPECIAL_BY_MPMATH, Arithmetic, Function, Number

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
        if np.iscomplexobj(array):  # made of two parts, each by this function
            return plain
        made = [_SourcedNumber(self, value, 0) for value in plain.reshape(-1)]
        return _array_of(made).reshape(plain.shape)

    def function(self, name: str) -> Function:
        of_values = super().function(name)
        if name == "divide":
            return np.frompyfunc(lambda a, b: _quotient(of_values, a, b), 2, 1)
        if name == "is_finite":
            return np.frompyfunc(lambda x: of_values(x.value), 1, 1)
        if name in WHOLE:
            return np.frompyfunc(lambda x: self._whole(of_values(x.value), x), 1, 1)

        cost = COST_OF_SPECIAL if name in (*SPECIAL, *SPECIAL_BY_MPMATH, "lgamma") else COST_OF_FUNCTION

        def of_numbers(*operands: _SourcedNumber | Number) -> _SourcedNumber:
            self.cost += cost
            sources = 0
            for operand in operands:
                sources |= _sources(operand)
            return _SourcedNumber(self, of_values(*map(_value, operands)), sources)

        return lambda *arrays: np.frompyfunc(of_numbers, len(arrays), 1)(*arrays)

    def _whole(self, value: Number, x: _SourcedNumber) -> _SourcedNumber:
        # At a whole number, floor and ceil jump. Otherwise they are constant near x, and have no sources.
        if value == x.value:
            self.tied |= x.sources
        return _SourcedNumber(self, value, 0)


class _SourcedNumber:
    """A number of many digits, with the bits of its sources. Plain integers in the same operation have no sources."""

    __slots__ = ("arithmetic", "sources", "value")

    def __init__(self, arithmetic: _SourceArithmetic, value: Number, sources: int):
        self.arithmetic = arithmetic
        self.value = value
        self.sources = sources
        arithmetic.cost += 1

    def __add__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        return _SourcedNumber(self.arithmetic, self.value + _value(other), self.sources | _sources(other))

    def __sub__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        return _SourcedNumber(self.arithmetic, self.value - _value(other), self.sources | _sources(other))

    def __rsub__(self, other: int) -> _SourcedNumber:
        return _SourcedNumber(self.arithmetic, other - self.value, self.sources)

    def __mul__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        a, b = self.value, _value(other)
        sources = self.sources | _sources(other)
        if (a == 0 and not self.sources) or (b == 0 and not _sources(other)):
            sources = 0
        return _SourcedNumber(self.arithmetic, a * b, sources)

    def __truediv__(self, other: _SourcedNumber | int) -> _SourcedNumber:
        return _quotient(operator.truediv, self, other)

    def __neg__(self) -> _SourcedNumber:
        return _SourcedNumber(self.arithmetic, -self.value, self.sources)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    __radd__ = __add__
    __rmul__ = __mul__
    __hash__ = None  # type: ignore[assignment]


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


def _quotient(divide: Function, a: _SourcedNumber, b: _SourcedNumber | Number) -> _SourcedNumber:
    is_zero = a.value == 0 and not a.sources
    return _SourcedNumber(a.arithmetic, divide(a.value, _value(b)), 0 if is_zero else a.sources | _sources(b))
