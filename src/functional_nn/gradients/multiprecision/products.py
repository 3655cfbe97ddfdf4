"""Rules for sums of products: matrix products and convolutions, both as batched matrix products."""

from __future__ import annotations

import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.multiprecision.numbers import Arithmetic
from functional_nn.gradients.multiprecision.reductions import windows
from functional_nn.gradients.multiprecision.rules import Rules, Values
from functional_nn.jaxprs.walk import array_type

RULES = Rules()


def multiplied(a: Values, b: Values) -> Values:
    """Multiplies matrices of shapes (batch, m, k, points) and (batch, k, n, points)."""
    return np.moveaxis(np.matmul(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)), 0, -1)


@RULES.of("dot_general")
def _dot_general(arithmetic: Arithmetic, equation: JaxprEqn, a: Values, b: Values) -> Values:
    (contracted_a, contracted_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    free_a = [axis for axis in range(a.ndim - 1) if axis not in (*contracted_a, *batch_a)]
    free_b = [axis for axis in range(b.ndim - 1) if axis not in (*contracted_b, *batch_b)]

    def grouped(x: Values, *groups: list[int]) -> Values:
        sizes = [int(np.prod([x.shape[axis] for axis in group])) for group in groups]
        order = [axis for group in groups for axis in group]
        return np.transpose(x, (*order, x.ndim - 1)).reshape(*sizes, x.shape[-1])

    # (batch, free, contracted, points) times (batch, contracted, free, points). The axes of the result that JAX
    # specifies have the same order: the batch, the free axes of a, the free axes of b.
    product = multiplied(
        grouped(a, list(batch_a), free_a, list(contracted_a)), grouped(b, list(batch_b), list(contracted_b), free_b)
    )
    return product.reshape(*array_type(equation.outvars[0]).shape, product.shape[-1])


@RULES.of("conv_general_dilated")
def _conv_general_dilated(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, kernel: Values) -> Values:
    parameters = equation.params
    if parameters["batch_group_count"] != 1:
        remedy = "difference_jacobian takes any function."
        raise InputError("function", "convolutions with batch_group_count 1", parameters["batch_group_count"], remedy)
    groups = parameters["feature_group_count"]
    # Both arrays get JAX's usual order of axes: (batch, channels, *sizes) and (out, in, *sizes).
    x_axes, kernel_axes, y_axes = parameters["dimension_numbers"]
    x = np.transpose(x, (*x_axes, x.ndim - 1))
    kernel = np.transpose(kernel, (*kernel_axes, kernel.ndim - 1))
    out_size, in_size, *sizes = kernel.shape[:-1]
    # Each window becomes a row of one matrix. The weights of each group become another matrix.
    found = windows(
        x,
        arithmetic.numbers(0.0),
        sizes=sizes,
        strides=parameters["window_strides"],
        padding=parameters["padding"],
        base_dilation=parameters["lhs_dilation"],
        window_dilation=parameters["rhs_dilation"],
    )
    batch, places = x.shape[0], found.shape[2 : 2 + len(sizes)]
    # From (batch, channels, *places, *sizes, points) to (groups, batch · places, in · sizes, points).
    found = found.reshape(batch, groups, in_size, int(np.prod(places)), -1, x.shape[-1])
    found = np.transpose(found, (1, 0, 3, 2, 4, 5)).reshape(groups, -1, in_size * int(np.prod(sizes)), x.shape[-1])
    # (groups, in · sizes, out / groups, points).
    kernel = kernel.reshape(groups, out_size // groups, -1, kernel.shape[-1]).swapaxes(1, 2)
    product = multiplied(found, kernel)
    # The outputs of the groups are joined along the channels. Then the axes get the order that the equation specifies:
    # ``argsort`` inverts the permutation ``y_axes``.
    product = product.reshape(groups, batch, -1, out_size // groups, product.shape[-1])
    y = np.transpose(product, (1, 0, 3, 2, 4)).reshape(batch, out_size, *places, product.shape[-1])
    return np.transpose(y, (*np.argsort(y_axes), y.ndim - 1))
