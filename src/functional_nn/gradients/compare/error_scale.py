"""The scale of errors in a derivative: how far rounding can move it, measured with a small error in every operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare.problem import Array, is_simple_fraction
from functional_nn.jaxprs.counts import ELEMENTWISE
from functional_nn.jaxprs.evaluate import Compute, EquationPath, bind, evaluate
from functional_nn.jaxprs.walk import all_equations, array_type, inner_programs

TOLERANCES = {"float64": 1e-13, "float32": 1e-5, "float16": 0.05, "bfloat16": 0.2}
"""The largest error allowed, relative to the size of the terms: in float64 about 450 units in the last place."""
SIZE = 2.0**-30
"""The relative error of each operation: far above rounding in float64, small enough for its effect to be linear."""
RUNS = 8
PLACES = 10_007
"""The number of places among the errors from which an operation takes its own. It is a prime number, so that operations
on arrays of usual sizes rarely take the same errors."""

SUMS = frozenset(("conv_general_dilated", "cumsum", "dot_general", "reduce_sum", "reduce_window_sum"))
"""Operations that round after every term that they add."""
EXACT = frozenset(("abs", "ceil", "clamp", "floor", "max", "min", "neg", "rem", "round", "sign"))
ROUNDED = SUMS | {"digamma", "lgamma"} | (ELEMENTWISE - EXACT)
"""Operations that round their results. Maxima, selections and moves of elements are exact, so they get no error."""
SOLVERS = frozenset(
    ("cholesky", "custom_linear_solve", "eigh", "fft", "householder_product", "lu", "qr", "svd", "triangular_solve")
)
"""Backward stable operations: their rounding error is as large as the effect of errors in their operands, which are
small beside the largest element of a matrix."""


LOOP = "while"
"""No error is put inside of such a loop, since it could change the condition, and so the number of steps."""
CONVERSIONS = frozenset(("convert_element_type", "reduce_precision"))
NARROW = ("float32", "float16", "bfloat16")
"""The types with fewer digits than float64, the one with the most digits first."""
SHARE = 1 / 4
"""In a narrow type, the relative error of each operation is this share of the tolerance of the type."""
CONSTANT = 2.0**-23
"""The relative change that is allowed in a constant that was rounded to float32: one unit in the last place."""


class Rounded(NamedTuple):
    """The result of a function, and how far rounding can move it.

    Args:
        value: the result.
        size: how far each element moves, per unit of relative error in every operation.
        narrow: how far each element may be off because the function rounds to types narrower than float64.
    """

    value: PyTree
    size: PyTree
    narrow: PyTree


def with_rounding(function: Callable[..., PyTree], *arguments: PyTree) -> Rounded:
    """Computes a function, and how far rounding can move each element of its result (Monte Carlo arithmetic).

    Each operation's result is multiplied by 1 + 2⁻³⁰ r, where ¾ ≤ |r| ≤ 1 is drawn for every element. To the
    result of a sum, 2⁻³⁰ r times the sum of absolute terms is added. The size is the largest change of the result in
    eight runs, divided by 2⁻³⁰. This number times the unit roundoff estimates how much rounding can change the result
    of such a program. The change is large if terms cancel or if the function is ill-conditioned.

    If some operations round to a narrower type, there are eight more runs, with errors in these operations alone. Their
    errors are a share of the type's tolerance. A constant that was rounded to float32 is moved too.

    >>> with jax.enable_x64(True):
    ...     size = float(with_rounding(lambda x: (x + 1e6) - 1e6, jnp.array(1.0)).size)
    >>> 7e5 <= size <= 2.1e6
    True

    References:
        Parker 1997, "Monte Carlo arithmetic: exploiting randomness in floating-point arithmetic".
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    # The first run has no errors. A program of its own for it would take as long to compile as that of all others.
    drawn = jnp.pad(drawn_errors(program), ((1, 0), (0, 0)))

    def moved(narrow: bool) -> tuple[list[jax.Array], list[jax.Array]]:
        unit = SHARE if narrow else SIZE
        runs = jax.vmap(lambda errors: evaluate(program, leaves, Noise(errors, narrow=narrow)))(unit * drawn)
        return [run[0] for run in runs], [largest_change(run[1:], run[0]) / unit for run in runs]

    structure, (value, size) = jax.tree.structure(shape), moved(False)
    narrow = moved(True)[1] if narrow_types(program) else list(map(jnp.zeros_like, size))
    # The errors of a narrow type may change an outcome of a comparison. A wrong sign has to be seen all the same.
    sizes = [jnp.fmax(terms, jnp.abs(one)) for terms, one in zip(size, value, strict=True)]
    narrow = [jnp.minimum(one, terms / 2) for one, terms in zip(narrow, sizes, strict=True)]
    return Rounded(*(jax.tree.unflatten(structure, leaves) for leaves in (value, size, narrow)))


def largest_change(moved: Array, original: Array) -> jax.Array:
    """The largest change of each element in all runs. Runs that left the function's domain are ignored."""
    changes = jnp.abs(moved - original[None])
    return jnp.max(jnp.where(jnp.isfinite(moved), changes, 0), 0)


def drawn_errors(program: ClosedJaxpr) -> jax.Array:
    """Numbers between -1 and 1 for all runs, (runs, n). Every operation takes those from another place on.

    Their sizes differ, because errors of equal size from two operations would often cancel in all runs.
    """
    inside = [variable for equation in all_equations(program) for variable in (*equation.invars, *equation.outvars)]
    largest = max((array_type(variable).size for variable in (*program.jaxpr.invars, *inside)), default=0)
    random, shape = np.random.default_rng(0), (RUNS, PLACES + largest)
    # These numbers are constants of the compiled program, so each is stored in one byte: |r| = 96/127 … 127/127.
    drawn = random.integers(96, 128, shape, np.int8) * random.choice(np.array([-1, 1], np.int8), shape)
    return jnp.asarray(drawn).astype(float) / 127


def narrow_types(program: ClosedJaxpr) -> list[str]:
    """The types narrower than float64 to which a program rounds, the one with the most digits first.

    A conversion to a wider type is exact, so it does not count. A constant that was rounded to float32 counts.

    >>> with jax.enable_x64(True):
    ...     narrow_types(jax.make_jaxpr(lambda x: x.astype(jnp.bfloat16) * 2)(1.0))
    ['bfloat16']
    """
    equations = list(all_equations(program))
    found = set(map(_narrow_type, equations))
    if any(_is_rounded_constant(variable) for equation in equations for variable in equation.invars):
        found.add(NARROW[0])
    return [name for name in NARROW if name in found]


def _narrow_type(equation: JaxprEqn) -> str:
    """The narrow type to which an equation itself rounds; otherwise an empty text."""
    name = equation.primitive.name
    if name not in ROUNDED | SOLVERS | CONVERSIONS:
        return ""
    digits = equation.params.get("mantissa_bits", _digits(equation.outvars[0]))
    # Code that splits a float64 exactly into two halves keeps 25 bits or more. It does not lose digits.
    if not 0 <= digits < BITS_OF_FLOAT32 or (name in CONVERSIONS and digits >= _digits(equation.invars[0])):
        return ""
    return next((name for name in NARROW if jnp.finfo(name).nmant <= digits), NARROW[-1])


def _digits(variable: Var | Literal) -> int:
    """The binary digits of the type of a variable; -1 for integers."""
    dtype = array_type(variable).dtype
    return int(jnp.finfo(dtype).nmant) if jnp.issubdtype(dtype, jnp.inexact) else -1


BITS_OF_FLOAT32 = 24
NEARLY_WHOLE = 1e-4
"""A number is taken for a whole one if it differs by this share: more than the noise, even if that is in float32."""


def _is_rounded_constant(variable: object) -> bool:
    """Whether an operand is a constant of the code that looks like one that was rounded to float32, such as 0.1.

    It needs more bits than a simple number, but at most the 24 of float32. Only one float64 in 2²⁹ does so by chance.
    """
    if not isinstance(variable, Literal):
        return False
    number = np.asarray(variable.val)
    if number.dtype != np.float64 or number.shape or not np.isfinite(number) or number == np.round(number):
        return False
    mantissa, _ = np.frexp(np.abs(number))
    # No fraction is left after 24 binary digits, but simple fractions need even fewer.
    return not (mantissa * 2.0**BITS_OF_FLOAT32) % 1 and not is_simple_fraction(number)


class Noise:
    """A hook for ``evaluate`` that makes the result of every rounded operation slightly wrong.

    Args:
        errors: the relative errors of one run, at least as many as the largest array of the program has elements, and
            ``PLACES`` more.
        narrow: whether the errors are in narrow types only: in their operations, in conversions to them, and in
            constants that were rounded to float32.
    """

    def __init__(self, errors: jax.Array, *, narrow: bool = False):
        self._errors, self._place, self._narrow = errors, 0, narrow

    def __call__(
        self, path: EquationPath, equation: JaxprEqn, operands: Sequence[jax.Array], compute: Compute
    ) -> list[jax.Array]:
        name = equation.primitive.name
        is_value = any(jnp.issubdtype(array_type(variable).dtype, jnp.inexact) for variable in equation.outvars)
        if self._narrow and is_value:  # in a condition, an error could change the branch
            operands = [
                self.with_relative_error(x, CONSTANT) if _is_rounded_constant(variable) else x
                for x, variable in zip(operands, equation.invars, strict=True)
            ]
        if name in ("floor", "ceil") or (name in CONVERSIONS and not is_value):
            operands = list(map(_without_noise, operands))
        share = self._share(equation)
        if name == LOOP:
            return [self.with_relative_error(result, share) for result in bind(equation, operands)]
        if not share:
            return compute(operands)
        if name == "custom_linear_solve":  # L and U are in one matrix, and the numbers of U may be much larger
            return bind(equation, [self.with_relative_error(x, share) for x in operands])
        if name in SOLVERS:
            axes = -2, -1  # those of a matrix
            largest = [jnp.max(jnp.abs(x), axes[-x.ndim :], keepdims=True, initial=0) for x in operands]
            return bind(equation, [self._with_error(*pair, share) for pair in zip(operands, largest, strict=True)])
        (result,) = compute(operands)
        if name not in SUMS:
            return [self.with_relative_error(result, share)]
        # The sum of absolute terms is the same operation on the absolute values of the operands.
        (terms,) = bind(equation, [jnp.abs(x).astype(x.dtype) for x in operands])
        return [self._with_error(result, terms, share)]

    def _share(self, equation: JaxprEqn) -> float:
        """The relative error of an operation, as a multiple of the drawn errors."""
        if not self._narrow:
            return 1.0 if equation.primitive.name in ROUNDED | SOLVERS | {LOOP} else 0.0
        types = {_narrow_type(equation)}
        if equation.primitive.name == LOOP:
            types.update(*map(narrow_types, inner_programs(equation)))
        return max(TOLERANCES.get(name, 0.0) for name in types)

    def with_relative_error(self, value: jax.Array, share: float) -> jax.Array:
        """The value times 1 plus a multiple of a drawn error. Integers do not change."""
        if not share or not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        return value * (1 + self._error(value, share))

    def _with_error(self, value: jax.Array, size: jax.Array, share: float) -> jax.Array:
        """The value plus a multiple of a drawn error times a size. Integers do not change."""
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        error = self._error(value, share) * size.astype(value.dtype)
        return jnp.where(jnp.isfinite(size), value + error, value)

    def _error(self, like: jax.Array, share: float) -> jax.Array:
        """The next relative errors for an array. Both parts of a complex number get the same one."""
        start, self._place = self._place, (self._place + like.size) % PLACES
        errors = lax.slice(self._errors, (start,), (start + like.size,)).reshape(like.shape)
        errors = (errors if share == 1 else share * errors).astype(like.dtype)
        return errors * (1 + 1j) if jnp.issubdtype(like.dtype, jnp.complexfloating) else errors


def _without_noise(operand: jax.Array) -> jax.Array:
    """Numbers that are whole but for the noise, such as an index that was computed, as whole numbers."""
    if not jnp.issubdtype(operand.dtype, jnp.floating):
        return operand
    whole = jnp.round(operand)
    return jnp.where(jnp.abs(operand - whole) <= NEARLY_WHOLE * jnp.abs(whole), whole, operand)
