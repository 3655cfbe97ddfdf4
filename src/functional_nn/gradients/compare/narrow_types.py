"""The narrowest floating-point type in which a function computes, although its arguments are float64."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from functional_nn.gradients.compare.problem import Array, Function, Leaves
from functional_nn.jaxprs.walk import all_equations, array_type, inner_programs

MORE_BITS = 18
"""A constant that needs more bits than this, but at most the 24 of float32, was probably rounded to float32. Only one
float64 in 2²⁹ needs at most 24 bits by chance. Whole numbers and simple fractions are not counted."""
BITS_OF_FLOAT32 = 24
SIMPLE_FRACTION = 1 / 8
"""Multiples of it, such as 300000.5, are exact in float32 up to two million. They were probably not rounded."""
LARGEST_FRACTION = 2.0**40
"""Only numbers up to this one count: all large numbers of float64 are multiples of 1/8."""
NARROW = ("float32", "float16", "bfloat16")
"""The types with fewer digits than float64, the one with the most digits first."""


def narrowest_type(function: Function, leaves: Leaves) -> str:
    """The narrowest floating-point type inside a function of float64 leaves: ``"float64"`` if it uses no other.

    A type is used if an operation converts a float64 to it, as a cast does, or rounds it to as few bits. Float32 is
    also used if a constant in the code was rounded to it. Then even a right formula agrees with the exact derivative
    only to the digits of this type.

    >>> with jax.enable_x64(True):
    ...     narrowest_type(lambda leaves: [leaves[0].astype(jnp.bfloat16) * 2], [np.ones(3)])
    'bfloat16'
    """
    types = {"float64"}
    program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
    for equation in all_equations(program):
        types.update(_narrow_results(equation))
        if any(isinstance(variable, Literal) and _is_rounded_to_float32(variable.val) for variable in equation.invars):
            types.add("float32")
    return min(types, key=lambda name: jnp.finfo(name).nmant)


def _narrow_results(equation: JaxprEqn) -> Iterator[str]:
    takes_float64 = any(getattr(variable.aval, "dtype", None) == np.float64 for variable in equation.invars)
    if not takes_float64 or inner_programs(equation):
        return
    if equation.primitive.name == "reduce_precision":
        # Code that splits a float64 exactly into two halves keeps 25 bits or more. It does not lose digits.
        bits = equation.params["mantissa_bits"]
        if bits < BITS_OF_FLOAT32:
            yield next((name for name in NARROW if jnp.finfo(name).nmant <= bits), NARROW[-1])
        return
    for variable in equation.outvars:
        dtype = array_type(variable).dtype
        if jnp.issubdtype(dtype, jnp.floating) and dtype != np.float64:
            yield dtype.name


def _is_rounded_to_float32(value: object) -> bool:
    """Whether a constant of the code looks like one that was rounded to float32, such as 0.1."""
    number = np.asarray(value)
    if number.dtype != np.float64 or number.shape or not np.isfinite(number) or number == np.round(number):
        return False
    mantissa, _ = np.frexp(np.abs(number))
    # No fraction is left after 24 binary digits, but simple fractions need even fewer.
    return not (mantissa * 2.0**BITS_OF_FLOAT32) % 1 and not is_simple_fraction(number)


def is_simple_fraction(numbers: Array) -> np.ndarray:
    """Which numbers look exact: they need at most 18 bits, or are multiples of 1/8 below 2⁴⁰."""
    size = np.abs(np.asarray(numbers, np.float64))
    mantissa, _ = np.frexp(size)
    with np.errstate(invalid="ignore", over="ignore"):
        is_simple = (size % SIMPLE_FRACTION == 0) & (size < LARGEST_FRACTION)
        return ((mantissa * 2.0**MORE_BITS) % 1 == 0) | is_simple | ~np.isfinite(mantissa)
