"""Rules for loops and branches, run as Python runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.multiprecision.rules import Points, together
from functional_nn.jaxprs.equations import scan_sizes

Run = Callable[..., list[Any]]
"""``run(closed_jaxpr, operands) -> outputs``; each is ``Points`` or an ordinary array."""
Lift = Callable[[Any], np.ndarray]


def scan(run: Run, lift: Lift, equation: Any, operands: Sequence[Any]) -> list[Any]:
    params = equation.params
    consts_size, carry_size = scan_sizes(params)
    consts, carry = list(operands[:consts_size]), list(operands[consts_size : consts_size + carry_size])
    xs = [_in_memory(x) for x in operands[consts_size + carry_size :]]
    steps = range(params["length"])
    rows = []
    for step in reversed(steps) if params["reverse"] else steps:
        outputs = run(params["jaxpr"], [*consts, *carry, *(_at(x, step) for x in xs)])
        carry = outputs[:carry_size]
        rows.append(outputs[carry_size:])
    if params["reverse"]:
        rows.reverse()
    shapes = equation.outvars[carry_size:]
    ys = [_stacked(lift, column) for column in zip(*rows, strict=True)] if rows else [_empty(v.aval) for v in shapes]
    return [*carry, *ys]


def _in_memory(x: Any) -> Any:
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return x if isinstance(x, Points) or is_key else np.asarray(x)


def _at(x: Any, step: int) -> Any:
    return Points(x.values[step]) if isinstance(x, Points) else x[step]


def _stacked(lift: Lift, values: Sequence[Any]) -> Any:
    if any(isinstance(value, Points) for value in values):
        return Points(np.stack(together(*map(lift, values))))
    return jnp.stack(values)


def _empty(aval: Any) -> Any:
    return np.zeros(aval.shape, aval.dtype)


def cond(run: Run, lift: Lift, equation: Any, operands: Sequence[Any]) -> list[Any]:
    index, *operands = operands
    branches = equation.params["branches"]
    numbers = np.clip(np.asarray(index.values if isinstance(index, Points) else index, int), 0, len(branches) - 1)
    taken = np.unique(numbers)
    outputs = run(branches[taken[0]], operands)
    for number in taken[1:]:
        outputs = _selected(lift, numbers == number, run(branches[number], operands), outputs)
    return outputs


def while_loop(run: Run, lift: Lift, equation: Any, operands: Sequence[Any]) -> list[Any]:
    params = equation.params
    first = params["cond_nconsts"] + params["body_nconsts"]
    cond_consts, body_consts = operands[: params["cond_nconsts"]], operands[params["cond_nconsts"] : first]
    carry = list(operands[first:])

    def goes_on() -> np.ndarray:
        (go_on,) = run(params["cond_jaxpr"], [*cond_consts, *carry])
        return np.asarray(go_on.values if isinstance(go_on, Points) else go_on, bool)

    while (going := goes_on()).any():
        after = run(params["body_jaxpr"], [*body_consts, *carry])
        carry = after if going.all() else _selected(lift, going, after, carry)
    return carry


def _selected(lift: Lift, which: np.ndarray, new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
    """Of each pair the new one at those points."""
    return [Points(np.where(which, lift(a), lift(b))) for a, b in zip(new, old, strict=True)]


CONTROL = {"scan": scan, "cond": cond, "while": while_loop}
