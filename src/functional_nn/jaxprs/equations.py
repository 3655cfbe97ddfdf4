"""What the interpreters of traced programs have in common: an equation as it is, and how JAX writes a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def bind(equation: Any, operands: Sequence[Any], **changes: Any) -> list[Any]:
    """An equation's results, as it is or with other parameters."""
    primitive = equation.primitive
    results = primitive.bind(*operands, **primitive.get_bind_params({**equation.params, **changes}))
    return list(results) if primitive.multiple_results else [results]


def scan_sizes(parameters: Any) -> tuple[int, int]:
    """How many operands of a scan are constants and how many are carried. JAX 0.12 keeps them as a tree."""
    if "ft_in" in parameters:
        constants, carried, _ = map(list, parameters["ft_in"].unpack())
        return len(constants), len(carried)
    return parameters["num_consts"], parameters["num_carry"]
