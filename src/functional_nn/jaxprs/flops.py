"""Floating-point operations, counted from the traced program.

A multiplication and an addition count one each, so a product of (m, k) and (k, n) counts 2 m k n. An elementwise
operation counts one per output element, even a transcendental one. A reduction counts one per input element. Moves,
comparisons and conversions count as 0, and so do elementwise operations and reductions of integers. Matrix products and
convolutions of integers count. Equations that no result needs count, too: ``walk.live`` removes them. The body of a
``scan`` counts once for each step, and the body of a ``while`` counts once. A ``cond`` counts as its branch with the
most operations. A convolution counts the products of every window with the weights, including padding, also where the
platform computes it by matrix products. The stride of a transposed convolution leaves holes between its inputs; they
count as 0.

A product of complex matrices counts as four real ones, a complex addition 2 and a complex multiplication 6. A Fourier
transform of n numbers counts 5 n log₂ n, and half of it if its input or output is real. A ragged product counts every
row once, with the matrix of its group.

``uncounted`` gives the names of the operations that have no count here.

References:
    Frigo and Johnson 2005, "The design and implementation of FFTW3" (the counts of a Fourier transform).
"""

from __future__ import annotations

import math
from collections import Counter

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.typing import DTypeLike

from functional_nn.jaxprs.inner_programs import TracedProgram, array_type, closed, counted_program, inner_programs
from functional_nn.jaxprs.walk import times, within

ELEMENTWISE = frozenset(
    {"add", "add_any", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "floor", "ceil", "round"}
    | {"pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"}
    | {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"}
    | {"logistic", "erf", "erfc", "erf_inv", "clamp"}
)
REDUCTIONS = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"}
    | {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}
)
OVER_WINDOWS = frozenset(("reduce_window_sum", "reduce_window_max", "reduce_window_min"))
SUMS_OF_DEVICES = frozenset(
    f"{name}{end}"
    for name in ("psum", "psum_invariant", "unreduced_psum", "reduce_scatter", "unreduced_reduce_scatter")
    for end in ("", "_start")
)
FUSED_PRODUCTS = frozenset(
    {"scaled_dot", "scaled_matmul", "scaled_matmul_wrapper", "cudnn_fusion"}
    | {
        f"dot_product_attention_{way}{wrapper}"
        for way in ("fwd", "bwd", "fp8_fwd", "fp8_bwd")
        for wrapper in ("", "_wrapper")
    }
)
UNCOUNTED = frozenset(
    {"cholesky", "lu", "qr", "geqrf", "geqp3", "householder_product", "eig", "eigh", "svd", "schur", "hessenberg"}
    | {"triangular_solve", "tridiagonal", "tridiagonal_solve", "cholesky_update", "reduce_window", "reduce"}
    | {"custom_call", "ffi_call", "pallas_call", "pure_callback", "io_callback", "while"}
    | {"lgamma", "digamma", "polygamma", "zeta", "igamma", "igammac", "igamma_grad_a", "random_gamma_grad"}
    | {"regularized_incomplete_beta", "bessel_i0e", "bessel_i1e", "random_gamma"}
    | {"symmetric_product", "ormqr", "select_and_gather_add"}
    | SUMS_OF_DEVICES
    | FUSED_PRODUCTS
)
"""Operations whose number of floating-point operations is not known here. Of a ``while`` the number of steps is not."""
ADDING_UP = frozenset(("scatter-add", "scatter_add", "scatter-sub", "scatter_sub"))
MULTIPLYING = frozenset(("scatter-mul", "scatter_mul"))
EXTREMES = frozenset(("scatter-min", "scatter_min", "scatter-max", "scatter_max"))
COMPLEX_COUNTS = {
    **dict.fromkeys(("add", "add_any", "sub", "neg", "reduce_sum", "reduce_window_sum", "cumsum", *ADDING_UP), 2),
    **dict.fromkeys(("mul", "reduce_prod", "cumprod", *MULTIPLYING), 6),
}
"""The operations of a function of complex numbers, for each element."""


def uncounted(program: TracedProgram) -> Counter[str]:
    """How often one call runs the operations that have no count, by their names. The true number is at least the count.

    >>> from functional_nn.jaxprs.walk import trace
    >>> dict(uncounted(trace(lambda x: jnp.linalg.cholesky(x) @ x, jnp.ones((3, 3)))))
    {'cholesky': 1}
    """
    counts: Counter[str] = Counter()
    for equation in closed(program).jaxpr.eqns:
        name, programs, repeats = equation.primitive.name, _counted_programs(equation), times(equation)
        if name in UNCOUNTED:
            counts[name] += 1
        elif not programs and name in ELEMENTWISE | REDUCTIONS and _is_complex(equation) and name not in COMPLEX_COUNTS:
            counts[f"complex {name}"] += 1
        inner = [uncounted(inner_program) for inner_program in programs]
        if equation.primitive.name == "cond":
            for branch in inner:
                counts |= branch  # the larger count of each name, because only one branch runs
        else:
            counts += Counter({name: repeats * number for part in inner for name, number in part.items()})
    return counts


def _counted_programs(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The programs inside an equation whose operations it counts as."""
    counted = counted_program(equation)
    return inner_programs(equation) if counted is None else [counted]


def _is_complex(equation: JaxprEqn) -> bool:
    return jnp.issubdtype(array_type(equation.outvars[0]).dtype, jnp.complexfloating)


def flops_by_scope(program: TracedProgram, scope: str = "") -> Counter[str]:
    """The operations under each name stack (``chain_0/dense_1``) of a traced program.

    >>> from functional_nn.jaxprs.walk import trace
    >>> flops_by_scope(trace(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))).total()
    48
    """
    counts: Counter[str] = Counter()
    for equation in closed(program).jaxpr.eqns:
        place = within(scope, equation)
        inner = [flops_by_scope(inner_program, place) for inner_program in _counted_programs(equation)]
        if not inner:
            counts[place] += flops_of(equation)
        elif equation.primitive.name == "cond":
            counts += max(inner, key=Counter.total)
        else:
            repeats = times(equation)
            counts += Counter({scope: repeats * flops for part in inner for scope, flops in part.items()})
    return counts


def flops_of(equation: JaxprEqn) -> int:
    """The operations of one equation that has no inner program."""
    name = equation.primitive.name
    operands = [array_type(variable) for variable in equation.invars]
    if not equation.outvars:
        return 0
    result = array_type(equation.outvars[0])
    if name in ELEMENTWISE:
        return _per_element(name, result.dtype) * result.size
    if name in REDUCTIONS:
        is_running_total = name.startswith("cum")
        # Over axes of length 1, nothing is added.
        elements = operands[0].size if is_running_total or operands[0].size > result.size else 0
        return _per_element(name, operands[0].dtype) * elements
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        products = result.size * math.prod(operands[0].shape[axis] for axis in contracted)
        return (8 if _is_complex(equation) else 2) * products
    if name == "ragged_dot_general":
        return _ragged_flops(equation)
    if name == "fft":
        return _fourier_flops(equation)
    if name == "conv_general_dilated":
        weight, numbers = operands[1], equation.params["dimension_numbers"]
        # An element of the result meets the weights of its own output channel.
        products = result.size * weight.size // weight.shape[numbers.rhs_spec[0]]
        return (8 if _is_complex(equation) else 2) * products // math.prod(equation.params["lhs_dilation"])
    if name in OVER_WINDOWS:
        elements = result.size * math.prod(equation.params["window_dimensions"])
        return _per_element(name, result.dtype) * elements
    if name == "select_and_scatter_add":
        return operands[0].size * (1 + math.prod(equation.params["window_dimensions"]))
    if name in ADDING_UP | MULTIPLYING | EXTREMES:
        return _per_element(name, result.dtype) * operands[2].size
    return 0


def _per_element(name: str, dtype: DTypeLike) -> int:
    """The operations of an elementwise function or a reduction for each element. Integers and booleans have none."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return COMPLEX_COUNTS.get(name, 0)
    return 1 if jnp.issubdtype(dtype, jnp.floating) else 0


def _ragged_flops(equation: JaxprEqn) -> int:
    """Every element of the left operand meets each free element of the right one, in one of the groups."""
    left, right = (array_type(variable) for variable in equation.invars[:2])
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    taken = {*contracted, *batch, *numbers.rhs_group_dimensions}
    free = math.prod(size for axis, size in enumerate(right.shape) if axis not in taken)
    return 2 * left.size * free


def _fourier_flops(equation: JaxprEqn) -> int:
    """5 n log₂ n for each transform of n complex numbers, and half of it for real ones."""
    lengths = equation.params["fft_lengths"]
    source, result = array_type(equation.invars[0]), array_type(equation.outvars[0])
    n, transforms = math.prod(lengths), math.prod(source.shape[: source.ndim - len(lengths)])
    is_real = not all(jnp.issubdtype(array.dtype, jnp.complexfloating) for array in (source, result))
    return round(transforms * (2.5 if is_real else 5) * n * math.log2(max(n, 1)))
