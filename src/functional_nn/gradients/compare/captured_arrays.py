"""Checks of functions that capture NumPy arrays, before and after the same functions run in another precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from functional_nn.gradients.compare.problem import Leaves, Problem
from functional_nn.jaxprs.walk import fresh, inner_programs

CONVERTED_KINDS = "fic"
"""The kinds of numbers whose width depends on the switch for 64-bit numbers: floating-point, integer, complex."""


@contextmanager
def converted_anew(program: Callable[[], object]) -> Iterator[None]:
    """A context in which the NumPy arrays that a program captures are converted to their 64-bit types.

    A function may use NumPy arrays that are not its arguments. When JAX traces it, it converts such an array to float32
    or float64, as the switch for 64-bit numbers says. It keeps the converted array as long as a traced program uses it,
    and returns it for the same NumPy array even if the switch has changed in the meantime. So a function that was
    jitted in float32 would be checked with rounded numbers, or JAX could not compile it ("Cannot lower jaxpr"). After
    the check, the same would happen to the user's program in float32.

    ``jax.clear_caches`` drops the traced programs, and with them the converted arrays. The user's programs are then
    compiled again, which takes time. So the caches are cleared only if the program captures NumPy arrays.

    Args:
        program: traces everything that is checked. It is only traced, not run.
    """
    if not _captures_arrays(program):
        yield
        return
    jax.clear_caches()
    try:
        yield
    finally:
        jax.clear_caches()


def pulled_back(problem_in: Callable[[str], Problem]) -> Leaves:
    """Runs the function and the formula of a problem once, for ``converted_anew``."""
    problem = problem_in("float64")
    leaves = list(map(jnp.asarray, problem.leaves))
    return problem.pullback(leaves, [jnp.zeros_like(y) for y in problem.function(leaves)])


def _captures_arrays(program: Callable[[], object]) -> bool:
    """Whether a program uses NumPy arrays that exist longer than its trace.

    A layer may also make an array while it is traced. This array is a new one in every trace, so only arrays that occur
    in two traces count.
    """
    with jax.enable_x64(True):
        try:
            first, second = (jax.make_jaxpr(fresh(program))() for _ in range(2))
        except (TypeError, ValueError):
            # Two types meet in one operation: an array may still have the type of an older trace.
            return True
        seen = {id(array) for array in _arrays(first)}
        return any(id(array) in seen for array in _arrays(second))


def _arrays(program: ClosedJaxpr) -> Iterator[np.ndarray]:
    """The NumPy arrays in a traced program whose type depends on the switch.

    An array without axes is written into an equation. It is looked for outside of calls only: functions of JAX contain
    such arrays, too, and they are always the same.
    """
    operands = [operand for equation in program.eqns for operand in equation.invars]
    yield from _converted([operand.val for operand in operands if isinstance(operand, Literal)])
    yield from _constants(program)


def _constants(program: ClosedJaxpr) -> Iterator[np.ndarray]:
    yield from _converted(program.consts)
    for equation in program.eqns:
        for inner in inner_programs(equation):
            yield from _constants(inner)


def _converted(values: Sequence[object]) -> Iterator[np.ndarray]:
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype.kind in CONVERTED_KINDS:
            yield value
