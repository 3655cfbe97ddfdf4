"""Causes of numbers that are not finite, and their remedies, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from functional_nn.jaxprs.matrix_products import PRODUCTS
from functional_nn.jaxprs.non_finite.elements import ELEMENTWISE, REDUCTIONS, SCATTERED


class Cause(NamedTuple):
    """A sentence about the cause, and one about the remedy."""

    cause: str
    remedy: str


Numbers = Sequence[np.ndarray]
"""For each operand, the numbers from which an element of the result was computed, in float64."""

GROWTH = (
    "Keep the numbers smaller: normalize the inputs, use a smaller learning rate, or limit the gradient "
    "(fnn.training.with_clipping)."
)
SUMS = frozenset(("add", "add_any", "sub", "cumsum", "reduce_sum", "reduce_window_sum", *PRODUCTS, *SCATTERED))
"""Operations that add numbers."""
SAFE_LOGARITHM = (
    "Compute from logits (fnn.cross_entropy, jax.nn.log_softmax, jax.nn.log_sigmoid), or keep the number above 0: "
    "jnp.log(jnp.maximum(x, 1e-6))."
)
SAFE_DIVISION = "Add a small number to the divisor, or replace 0 before the division: x / jnp.where(d == 0, 1, d)."
HIDDEN = (
    " The forward pass does not use the number, as with jnp.where. But the backward pass multiplies a cotangent of 0 "
    "by the derivative, and 0 · ∞ = NaN."
)
NAMES = {"acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "atan2": "arctan2", "atanh": "arctanh", "pow": "power"}
"""The names that functions have in ``jax.numpy``, if they differ from the names of JAX's primitives."""
INSIDE = "Limit the argument before the operation, for example by jnp.clip."

Rule = Callable[..., Cause | None]


def logarithm(x: np.ndarray) -> Cause:
    if (x < 0).any():
        return Cause("The logarithm of a negative number is not defined.", SAFE_LOGARITHM)
    return Cause(f"The logarithm of 0 is -inf.{_note_on_tiny(x)}", SAFE_LOGARITHM)


def logarithm_of_1_plus(x: np.ndarray) -> Cause:
    if (x == -1).any():
        return Cause("log1p(x) is the logarithm of 1 + x, and the logarithm of 0 is -inf.", SAFE_LOGARITHM)
    return Cause("log1p(x) is the logarithm of 1 + x, which is negative here.", SAFE_LOGARITHM)


def division(x: np.ndarray, divisor: np.ndarray) -> Cause | None:
    if not (divisor == 0).any():
        return None
    return Cause("0 / 0 is not defined." if (x == 0).any() else "The divisor is 0.", SAFE_DIVISION)


def root(x: np.ndarray) -> Cause:
    return Cause("The square root of a negative number is not defined.", "Use jnp.sqrt(jnp.maximum(x, 0)).")


def inverse_root(x: np.ndarray) -> Cause:
    if (x < 0).any():
        return Cause("The square root of a negative number is not defined.", "Use jnp.maximum(x, 0) under the root.")
    return Cause(f"1 / √x is infinite at 0.{_note_on_tiny(x)}", "Add a small number (eps) under the root.")


def _note_on_tiny(x: np.ndarray) -> str:
    """A sentence about a positive number whose result is that of 0."""
    return "" if (x == 0).any() else " XLA takes this number as 0, since it is below the smallest normal number."


def power(x: np.ndarray, exponent: np.ndarray) -> Cause | None:
    if (x == 0).any() and (exponent < 0).any():
        return Cause("0 to a negative power is infinite.", SAFE_DIVISION)
    if ((x < 0) & (exponent != np.floor(exponent))).any():
        return Cause("A negative number has real powers only for integer exponents.", "Use jnp.maximum(x, 0).")
    return None


def integer_power(x: np.ndarray) -> Cause | None:
    return Cause("0 to a negative power is infinite.", SAFE_DIVISION) if (x == 0).any() else None


def outside(interval: str) -> Rule:
    return lambda *numbers: Cause(f"The function is finite only for arguments in {interval}.", INSIDE)


def pole(*numbers: np.ndarray) -> Cause | None:
    x = numbers[-1]
    if ((x <= 0) & (x == np.floor(x))).any():
        return Cause("The function is infinite at 0 and at negative integers.", INSIDE)
    return None


def not_positive_definite(*numbers: np.ndarray) -> Cause:
    remedy = "Add a small multiple of the identity matrix: a + 1e-6 * jnp.eye(n). Check that the matrix is symmetric."
    return Cause("The matrix is not positive definite.", remedy)


def singular(*numbers: np.ndarray) -> Cause:
    return Cause("The matrix is singular.", "Add a small multiple of the identity matrix, or use jnp.linalg.lstsq.")


def outside_of_the_array(*numbers: np.ndarray) -> Cause:
    remedy = "Check the indices, such as tokens and class numbers: they must be below the length of the axis."
    return Cause("An index is outside of the array. JAX puts NaN there.", remedy)


RULES: dict[str, Rule] = {
    "acos": outside("[-1, 1]"),
    "acosh": outside("[1, ∞)"),
    "asin": outside("[-1, 1]"),
    "atanh": outside("(-1, 1)"),
    "cholesky": not_positive_definite,
    "custom_linear_solve": singular,
    "digamma": pole,
    "div": division,
    "erf_inv": outside("(-1, 1)"),
    "gather": outside_of_the_array,
    "integer_pow": integer_power,
    "lgamma": pole,
    "log": logarithm,
    "log1p": logarithm_of_1_plus,
    "log2": logarithm,
    "lu": singular,
    "polygamma": pole,
    "pow": power,
    "rem": division,
    "rsqrt": inverse_root,
    "sqrt": root,
    "triangular_solve": singular,
}


def singularity(kind: str, numbers: Numbers, result: complex) -> Cause | None:
    """The cause if an operation is undefined or infinite for finite numbers; None if its result is just too large."""
    rule = RULES.get(kind)
    cause = rule(*numbers) if rule else None
    # The parts of a sum may overflow to ∞ and -∞, and their sum is NaN.
    if cause is None and not np.isinf(result) and kind not in SUMS:
        cause = Cause(f"{kind} is not defined for these numbers.", "Keep its arguments where it is defined.")
    return cause


def overflow(kind: str, dtype: np.dtype) -> Cause:
    """The cause if a result is too large for its type."""
    if kind not in ELEMENTWISE | REDUCTIONS | SUMS | {"cumprod"}:
        return Cause(
            f"{kind} makes a number that is not finite of finite numbers.",
            "Look at what it computes for these numbers.",
        )
    largest = float(jnp.finfo(dtype).max)
    text = f"{largest:,.0f}" if largest < 1e6 else f"{largest:.1e}"
    cause = f"Overflow: a number is larger than {text}, the largest {dtype}."
    if kind in ("exp", "exp2", "expm1", "sinh", "cosh"):
        remedy = (
            "Subtract the largest argument first, as jax.nn.softmax and jax.nn.logsumexp do, or limit the argument."
        )
    elif dtype == np.float16:
        remedy = "Compute this in float32, or in bfloat16, which reaches 3.4e38."
    else:
        remedy = GROWTH
    return Cause(cause, remedy)


def cause_of_argument(path: str) -> Cause:
    """The cause if an argument is not finite."""
    first = path.split("/")[0]
    if first == "params":
        return Cause(
            "The parameter is not finite before anything is computed.",
            "Look at what made it: an initializer, a file, or a step of training that diverged.",
        )
    return Cause(
        f"{first} is not finite before anything is computed.",
        "Look at what made it. In data, remove such examples or replace the numbers, for example by np.nan_to_num.",
    )


def cause_of_infinity(kind: str, numbers: Numbers, *, is_from_constants: bool) -> Cause:
    """The cause of a NaN that was made of infinite numbers."""
    source = " The infinite number is a constant of the program, such as that of a mask." if is_from_constants else ""
    zeros = any((operand == 0).any() for operand in numbers)
    if kind in ("mul", *PRODUCTS) and zeros:
        return Cause(f"0 · ∞ is not defined.{source}", "Choose with jnp.where instead of multiplying by 0.")
    if kind == "div":
        name = "0 / 0" if zeros else "∞ / ∞"
        return Cause(f"{name} is not defined.{source}", "Keep the numbers finite before the division.")
    if kind in SUMS:
        remedy = (
            "If a row of a mask allows nothing, its maximum is -inf. Use a large finite number such as -1e30, or "
            "fnn.dot_product_attention, which gives 0 for such rows."
        )
        return Cause(f"∞ - ∞ is not defined.{source}", remedy if is_from_constants else GROWTH)
    return Cause(f"{kind} of an infinite number is not defined.{source}", "Keep its argument finite.")


def cause_of_constant(value: complex) -> Cause:
    """The cause if a constant of the program is not finite."""
    name = "NaN" if np.isnan(value) else "infinite"
    return Cause(
        f"A constant that the program reads here is {name}.",
        "Look at where it comes from: an array that the function closes over, or a condition under which jnp.where "
        "chooses it, such as a label that is out of range.",
    )


def hidden(kind: str, cause: Cause) -> Cause:
    """The cause if only the backward pass uses a number."""
    return Cause(cause.cause + HIDDEN, harmless_argument(kind))


def harmless_argument(kind: str) -> str:
    if kind in ("div", "rem", "atan2"):
        return "Replace the divisor before the division: jnp.where(d == 0, 0, x / jnp.where(d == 0, 1, d))."
    if kind == "pow":
        return "Choose a harmless argument before the operation: jnp.where(x > 0, jnp.where(x > 0, x, 1) ** y, 0)."
    name = NAMES.get(kind, kind)
    harmless = 0 if kind in ("acos", "asin", "atanh", "erf_inv", "exp", "exp2", "expm1") else 1
    return (
        f"Choose a harmless argument before the operation: jnp.where(ok, jnp.{name}(jnp.where(ok, x, {harmless})), 0)."
    )


def cause_in_derivative(functions: Sequence[str], *, is_hidden: bool) -> Cause:
    """The cause if a factor of a derivative is not finite.

    Args:
        functions: the operations of the forward pass at this source line whose derivatives can be infinite.
        is_hidden: whether this factor is multiplied by a cotangent of 0, as for a value that ``jnp.where`` does not
            choose.
    """
    first = functions[0]
    cause = f"The derivative of {' or '.join(functions)} is not finite at this point."
    if is_hidden:
        return Cause(cause + HIDDEN, harmless_argument(first))
    if first in ("eigh", "svd"):
        cause = f"The derivative of {first} is not finite if two eigenvalues or singular values are equal."
        remedy = "Add a small diagonal matrix with different numbers, or differentiate only functions of the values."
    elif first in ("acos", "asin", "atanh", "erf_inv"):
        remedy = "Keep the argument away from -1 and 1: jnp.clip(x, -0.9999, 0.9999)."
    elif first in ("sqrt", "rsqrt", "pow", "log", "cbrt"):
        remedy = f"Keep the argument of {NAMES.get(first, first)} away from 0, for example by adding 1e-6 to it."
    elif first in ("div", "atan2"):
        remedy = harmless_argument(first)
    else:
        remedy = INSIDE
    return Cause(cause, remedy)
