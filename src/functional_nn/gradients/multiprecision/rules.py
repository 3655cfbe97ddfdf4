"""Rules of the interpreter: each computes one JAX primitive with many digits, at many points at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

Values: TypeAlias = np.ndarray
"""Numbers of shape (\\*shape, points), or (\\*shape, 1) if they are the same at all points.

The points are the last axis. So NumPy can broadcast arrays of different rank, and arrays that are the same everywhere.
Floating-point values are numbers of many digits in arrays of objects. Integers and booleans have NumPy's types.
"""

Rule: TypeAlias = Callable[..., Values | list[Values]]
"""``rule(arithmetic, equation, *operands)`` returns the result of an equation, or the list of its results."""

AnyRule = TypeVar("AnyRule", bound=Rule)


class Points(NamedTuple):
    """A value that depends on the inputs. Any other value is an ordinary array, computed by JAX itself."""

    values: Values


class Rules(dict[str, Rule]):
    """A dictionary of rules by the name of the primitive."""

    def of(self, *names: str) -> Callable[[AnyRule], AnyRule]:
        """A decorator that registers a rule for the primitives with these names."""

        def register(rule: AnyRule) -> AnyRule:
            self.update(dict.fromkeys(names, rule))
            return rule

        return register


def together(*arrays: Values) -> list[Values]:
    """Broadcasts arrays to the same number of points."""
    points = max(array.shape[-1] for array in arrays)
    return [np.broadcast_to(array, (*array.shape[:-1], points)) for array in arrays]
