"""What a rule is: how one primitive of JAX is computed in an arithmetic, at many points at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

Values = np.ndarray
"""Numbers of shape (\\*shape, points), or (\\*shape, 1) where all points agree: the points are the last axis, so that
arrays of different rank and arrays that do not vary broadcast as NumPy has it."""


class Points(NamedTuple):
    """What depends on the inputs; everything else stays an ordinary array, computed by JAX itself."""

    values: Values


class Arithmetic(Protocol):
    """The numbers that stand for floating-point values, in arrays of any shape; integers and booleans stay NumPy's."""

    def numbers(self, array: Any) -> Values:
        """The exact values of a NumPy array (floating-point, integers, booleans) as numbers of this arithmetic."""
        ...

    def function(self, name: str) -> Callable[..., Values]:
        """An elementwise function: ``"exp"``, ``"divide"``, ``"erf"``…"""
        ...

    def compare(self, relation: Callable[..., Any], a: Values, b: Values) -> np.ndarray:
        """``np.less(a, b)`` and the like, as booleans."""
        ...

    def order(self, values: Values) -> np.ndarray:
        """What values are sorted by."""
        ...

    def rounded(self, values: Values) -> Values:
        """What an operation sees of its operands: the place where an arithmetic models its own rounding."""
        ...


class Rules(dict[str, Callable[..., Any]]):
    """Rules by the primitive's name: ``rule(arithmetic, equation, *operands)`` gives one array, or a list of them."""

    def of(self, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(rule: Callable[..., Any]) -> Callable[..., Any]:
            self.update(dict.fromkeys(names, rule))
            return rule

        return register


def together(*arrays: Values) -> list[Values]:
    """The same arrays, all of them with as many points."""
    points = max(array.shape[-1] for array in arrays)
    return [np.broadcast_to(array, (*array.shape[:-1], points)) for array in arrays]
