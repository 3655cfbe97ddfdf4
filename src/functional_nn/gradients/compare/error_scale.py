"""The scale of errors in a derivative: a derivative is a sum of terms, and the scale is the sum of their sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare.problem import Function, Leaves
from functional_nn.jaxprs.evaluate import Compute, EquationPath, bind, evaluate, run_scan, run_while
from functional_nn.jaxprs.walk import CALLS, Scan, While, all_equations, array_type, branches, scan_parts, while_parts


class Terms(NamedTuple):
    """The sum of absolute terms, for a value that depends on the argument of the linear function.

    A value that does not depend on the argument is an ordinary array.
    """

    sum: jax.Array


Value: TypeAlias = Terms | jax.Array


def has_absolute_terms(function: Function, leaves: Leaves) -> bool:
    """Whether the absolute terms of a derivative can be computed operation by operation.

    They cannot be computed for complex numbers, because complex terms can have any phase. They cannot be computed for
    linear systems either: a solution is not a sum of terms that are as large as the matrix's elements.
    """
    program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
    return not any(
        equation.primitive.name in SOLVERS or jnp.issubdtype(array_type(variable).dtype, jnp.complexfloating)
        for equation in all_equations(program)
        for variable in equation.outvars
    )


def absolute_terms(linear: Callable[[PyTree], PyTree], argument: PyTree) -> PyTree:
    """Evaluates a linear function with absolute coefficients, at the absolute argument.

    By the chain rule, a derivative is a sum over paths through the program, and each term is a product of local
    derivatives: x̄ᵢ = Σ_p Π_p c · ȳ. This function returns Σ_p Π_p |c| · |ȳ|. An error in x̄ᵢ may be rounding if it is
    small compared with this sum. It must not be compared with x̄ᵢ itself: if terms cancel, x̄ᵢ is small, and the effect
    of rounding is relatively large.

    Args:
        linear: a pullback of ``jax.vjp``, or the push-forward of ``jax.jvp`` at a fixed point. It is traced here.
        argument: the cotangents or tangents.

    >>> pullback = lambda y_bar: 3.0 * y_bar - 2.0 * y_bar
    >>> print(absolute_terms(pullback, jnp.array(-1.0)))
    5.0
    """
    program, shape = jax.make_jaxpr(linear, return_shape=True)(argument)
    arguments = [Terms(jnp.abs(leaf)) for leaf in jax.tree.leaves(argument)]
    results = evaluate(program, arguments, _in_absolute_terms)
    return jax.tree.unflatten(jax.tree.structure(shape), [_sum(result) for result in results])


def _in_absolute_terms(
    path: EquationPath, equation: JaxprEqn, operands: Sequence[Value], compute: Compute
) -> list[Value]:
    """The hook for ``evaluate`` that computes sums of absolute terms for values that depend on the argument."""
    name = equation.primitive.name
    if name == "scan":
        return _scan(equation, operands)
    if name == "while":
        return _while(equation, operands)
    if name == "cond":
        return _cond(equation, operands)
    # A call is entered with this hook. An equation without terms is a coefficient, and is computed as it is.
    if name in CALLS or not any(_is_linear(operand) for operand in operands):
        return compute(operands)
    # Coefficients lose their signs, and a difference becomes a sum.
    positive = [_positive(operand) for operand in operands]
    if name == "neg":
        return [Terms(positive[0])]
    if name == "sub":
        return [Terms(positive[0] + positive[1])]
    return [Terms(result) for result in bind(equation, positive)]


def _is_linear(value: Value) -> bool:
    return isinstance(value, Terms)


def _sum(value: Value) -> jax.Array:
    return value.sum if isinstance(value, Terms) else jnp.abs(value)


def _positive(value: Value) -> jax.Array:
    """Returns a sum of absolute terms, or a coefficient without its sign. Integers and masks are not changed."""
    if isinstance(value, Terms) or jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return _sum(value)
    return value


# In every step of a loop, and in every branch of a cond, a value must have the same structure: ``Terms`` or an array.
# So the inner programs are evaluated twice. The first time, a value is ``True`` if it depends on the argument, and
# ``False`` if not. This tells which values are ``Terms``. The second time, the loop or the branches run as in
# ``evaluate``, and return ``Terms`` for these values.


def _scan(equation: JaxprEqn, operands: Sequence[Value]) -> list[Value]:
    """Evaluates a loop. Its carry may depend on the argument from the start, or only after some step."""
    scan = scan_parts(equation)
    linear = _linear_in_any_step(scan, [_is_linear(operand) for operand in operands])
    linear_results = _linear_results(scan.body, linear)

    def body(*arguments: Value) -> list[Value]:
        return _as_terms(evaluate(scan.body, arguments, _in_absolute_terms), linear_results)

    return run_scan(scan, _as_terms(operands, linear), body)


def _while(equation: JaxprEqn, operands: Sequence[Value]) -> list[Value]:
    """Evaluates a loop with a condition. The condition depends on coefficients alone, and these keep their signs."""
    loop = while_parts(equation)
    linear = _linear_in_any_step(loop, [_is_linear(operand) for operand in operands])
    _, _, linear_carry = loop.split_operands(linear)

    def condition(*arguments: Value) -> list[Value]:
        return evaluate(loop.condition, arguments)

    def body(*arguments: Value) -> list[Value]:
        return _as_terms(evaluate(loop.body, arguments, _in_absolute_terms), linear_carry)

    return run_while(loop, _as_terms(operands, linear), condition, body)


def _cond(equation: JaxprEqn, operands: Sequence[Value]) -> list[Value]:
    """Evaluates a ``cond``. A result may depend on the argument in one branch and not in another."""
    index, *others = operands
    programs = branches(equation)
    linear = _linear_in_any_branch(programs, [_is_linear(operand) for operand in others])

    def branch(program: ClosedJaxpr) -> Callable[..., list[Value]]:
        return lambda *operands: _as_terms(evaluate(program, operands, _in_absolute_terms), linear)

    return list(lax.switch(index, [branch(program) for program in programs], *others))


def _as_terms(values: Sequence[Value], linear: Sequence[bool]) -> list[Value]:
    """Converts the values whose flag in ``linear`` is true to ``Terms``."""
    return [Terms(_sum(value)) if flag else value for value, flag in zip(values, linear, strict=True)]


def _linear_results(program: ClosedJaxpr, linear: Sequence[bool]) -> list[bool]:
    """Which results of a program depend on the argument, if the flags in ``linear`` say which inputs do."""
    return [result is True for result in evaluate(program, linear, _dependence)]


def _dependence(path: EquationPath, equation: JaxprEqn, operands: Sequence[object], compute: Compute) -> list[bool]:
    """The hook for ``evaluate`` that computes whether each value depends on the argument (True)."""
    name = equation.primitive.name
    linear = [operand is True for operand in operands]  # constants and literals are arrays
    if name == "scan":
        scan = scan_parts(equation)
        return _linear_results(scan.body, _linear_in_any_step(scan, linear))
    if name == "while":
        loop = while_parts(equation)
        _, _, carry = loop.split_operands(_linear_in_any_step(loop, linear))
        return carry
    if name == "cond":
        return _linear_in_any_branch(branches(equation), linear[1:])
    if name in CALLS:
        return compute(operands)
    return [any(linear)] * len(equation.outvars)


def _linear_in_any_step(loop: Scan | While, linear: Sequence[bool]) -> list[bool]:
    """Which operands of a loop depend on the argument, and which values of its carry do in at least one step."""
    if isinstance(loop, Scan):
        of_condition, (constants, carry, inputs) = [], loop.split_operands(linear)
    else:
        (of_condition, constants, carry), inputs = loop.split_operands(linear), []
    # A flag never becomes false again, so this ends.
    while True:
        after_step = _linear_results(loop.body, [*constants, *carry, *inputs])[: len(carry)]
        grown = [before or after for before, after in zip(carry, after_step, strict=True)]
        if grown == carry:
            return [*of_condition, *constants, *carry, *inputs]
        carry = grown


def _linear_in_any_branch(programs: Sequence[ClosedJaxpr], linear: Sequence[bool]) -> list[bool]:
    """Which results of a ``cond`` depend on the argument in at least one branch."""
    results = [_linear_results(program, linear) for program in programs]
    return [any(flags) for flags in zip(*results, strict=True)]


SIZE = 2.0**-30
"""The relative error of each operation: far above rounding in float64, small enough for its effect to be linear."""
RUNS = 4

SUMS = frozenset(("conv_general_dilated", "cumsum", "dot_general", "reduce_sum", "reduce_window_sum"))
"""Operations that round after every term that they add."""
ROUNDED = (
    SUMS
    | {"acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma"}
    | {"div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic"}
    | {"mul", "pow", "rsqrt", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh"}
)
"""Operations that round their results. Maxima, selections and moves of elements are exact, so they get no error."""
SOLVERS = frozenset(
    ("cholesky", "custom_linear_solve", "eigh", "householder_product", "lu", "qr", "svd", "triangular_solve")
)
"""Backward stable operations: their rounding error is as large as the effect of small errors in their operands."""


def rounding(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """How far each element of a result moves, per unit of relative error in every operation (Monte Carlo arithmetic).

    Each operation's result is multiplied by 1 + 2⁻³⁰ r, where ¾ ≤ |r| ≤ 1 is drawn for every element. To the
    result of a sum, 2⁻³⁰ r times the sum of absolute terms is added. This returns the largest change of the result in
    four runs, divided by 2⁻³⁰. This number times the unit roundoff estimates how much rounding can change the result of
    such a program. The change is large if terms cancel or if the function is ill-conditioned.

    >>> with jax.enable_x64(True):
    ...     size = float(rounding(lambda x: (x + 1e6) - 1e6, jnp.array(1.0)))
    >>> 7e5 <= size <= 2.1e6
    True

    References:
        Parker 1997, "Monte Carlo arithmetic: exploiting randomness in floating-point arithmetic".
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)

    def noisy(run: jax.Array) -> list[jax.Array]:
        return evaluate(program, leaves, Noise(run))

    original = evaluate(program, leaves)
    moved = jax.vmap(noisy)(jnp.arange(RUNS))
    sizes = [_largest_change(many, one) / SIZE for many, one in zip(moved, original, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(shape), sizes)


def _largest_change(moved: jax.Array, original: jax.Array) -> jax.Array:
    """The largest change of each element in all runs. Runs that left the function's domain are ignored."""
    changes = jnp.abs(moved - original[None])
    return jnp.max(jnp.where(jnp.isfinite(moved), changes, 0), 0)


class Noise:
    """A hook for ``evaluate`` that makes the result of every rounded operation slightly wrong.

    The numbers for all runs are drawn while the program is traced. Each run takes its own by its number. Their
    sizes differ, because errors of equal size from two operations would often cancel in all runs.
    """

    def __init__(self, run: jax.Array):
        self._run, self._random = run, np.random.default_rng(0)

    def __call__(
        self, path: EquationPath, equation: JaxprEqn, operands: Sequence[jax.Array], compute: Compute
    ) -> list[jax.Array]:
        name = equation.primitive.name
        if name == "while":
            # Noise inside the loop could change its condition, and so the number of steps.
            return bind(equation, operands)
        if name in SOLVERS:
            return bind(equation, [self._with_error(operand, operand) for operand in operands])
        results = compute(operands)
        if name not in ROUNDED or not jnp.issubdtype(jnp.result_type(results[0]), jnp.floating):
            return results
        (result,) = results
        # The sum of absolute terms is the same operation on the absolute values of the operands.
        size = bind(equation, [jnp.abs(operand) for operand in operands])[0] if name in SUMS else result
        return [self._with_error(result, size)]

    def _with_error(self, value: jax.Array, size: jax.Array) -> jax.Array:
        """The value with a random error of about ``SIZE`` times a size. Integers and complex numbers do not change."""
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value
        return jnp.where(jnp.isfinite(size), value + SIZE * self._drawn(value) * size, value)

    def _drawn(self, like: jax.Array) -> jax.Array:
        shape = (RUNS, *like.shape)
        # These numbers are constants of the compiled program, so each is stored in one byte: |r| = 96/127 … 127/127.
        drawn = self._random.integers(96, 128, shape, np.int8) * self._random.choice(np.array([-1, 1], np.int8), shape)
        return jnp.asarray(drawn)[self._run].astype(like.dtype) / 127
