"""Rules of the interpreter: how one primitive of JAX is computed in many digits, at many points at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Values: TypeAlias = np.ndarray
"""Numbers of shape (\\*shape, points), or (\\*shape, 1) where all points agree.

The points are the last axis, so arrays of different rank, and arrays that do not vary, broadcast as NumPy broadcasts.
Floating-point values are numbers of many digits, in arrays of objects; integers and booleans are NumPy's.
"""

Rule: TypeAlias = Callable[..., Any]
"""``rule(arithmetic, equation, *operands)`` returns the result of an equation, or the list of its results."""


class Points(NamedTuple):
    """A value that depends on the inputs. Any other value is an ordinary array, computed by JAX itself."""

    values: Values


class Rules(dict[str, Rule]):
    """Rules by the primitive's name."""

    def of(self, *names: str) -> Callable[[Rule], Rule]:
        """Decorates the rule of the primitives of these names."""

        def register(rule: Rule) -> Rule:
            self.update(dict.fromkeys(names, rule))
            return rule

        return register


def together(*arrays: Values) -> list[Values]:
    """The same arrays, all of them with the same number of points."""
    points = max(array.shape[-1] for array in arrays)
    return [np.broadcast_to(array, (*array.shape[:-1], points)) for array in arrays]
