"""Which elements of operands an operation reads, compared with what NaN in one element does to the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from functional_nn.jaxprs.evaluate import bind, evaluate
from functional_nn.jaxprs.non_finite_origin import BY_DERIVATIVES, ELEMENTWISE, Around, Operation, Tracked, read
from functional_nn.jaxprs.walk import CALLS

X = jnp.arange(1.0, 13).reshape(3, 4)
Y = X[::-1] / 7
IMAGE = jnp.arange(1.0, 51).reshape(1, 5, 5, 2)
KERNEL = jnp.ones((2, 2, 2, 3))

CASES = {
    "add": (lax.add, X, Y),
    "row": (lambda x, y: x - y, X, Y[:1]),
    "select_n": (lambda x, y: lax.select(X > 5, x, y), X, Y),
    "reduce_sum": (lambda x: lax.reduce_sum(x, (1,)), X),
    "broadcast_in_dim": (lambda x: lax.broadcast_in_dim(x, (3, 2, 4), (0, 2)), X),
    "broadcast of one": (lambda x: lax.broadcast_in_dim(x, (3, 4), (0, 1)), X[:, :1]),
    "concatenate": (lambda x, y: lax.concatenate([x, y], 1), X, Y),
    "reshape": (lambda x: lax.reshape(x, (2, 6)), X),
    "rev": (lambda x: lax.rev(x, (1,)), X),
    "slice": (lambda x: lax.slice(x, (1, 0), (3, 4), (1, 2)), X),
    "split": (lambda x: lax.split(x, (1, 3), 1), X),
    "stack": (lambda x, y: jnp.stack([x, y], 1), X, Y),
    "tile": (lambda x: jnp.tile(x, (2, 1)), X),
    "unstack": (lambda x: jnp.unstack(x), X),
    "squeeze": (lambda x: lax.squeeze(x, (0,)), X[None]),
    "transpose": (lambda x: lax.transpose(x, (1, 0)), X),
    "dot_general": (lambda x, y: lax.dot(x, y), X, Y.T),
    "conv_general_dilated": (
        lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        IMAGE,
        KERNEL,
    ),
    "cumprod": (lambda x: lax.cumprod(x, 0, reverse=True), X),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (1, 1), (2, 2)), X),
    "dynamic_update_slice": (lambda x, y: lax.dynamic_update_slice(x, y, (1, 1)), X, Y[:2, :2]),
    "gather": (lambda x: x[jnp.array([2, 0, 2])], X),
    "pad": (lambda x: lax.pad(x, jnp.float32(0), ((1, 0, 1), (0, -1, 0))), X),
    "scatter-add": (lambda x, y: x.at[jnp.array([0, 2, 2])].add(y), X, Y),
    "scatter": (lambda x, y: x.at[jnp.array([2, 0])].set(y), X, Y[:2]),
}


def equation_of(function, *operands):
    """The last equation of a function, and its operands."""
    seen = []

    def hook(path, equation, operands, compute):
        if equation.primitive.name not in CALLS:
            seen.append((equation, [jnp.asarray(operand) for operand in operands]))
        return compute(operands)

    evaluate(jax.make_jaxpr(function)(*operands), operands, hook)
    return seen[-1]


def spread_of_nan(equation, arrays, number, index):
    """The elements of the result that become NaN if one element of an operand is NaN."""
    planted = [array.at[index].set(jnp.nan) if i == number else array for i, array in enumerate(arrays)]
    return np.isnan(bind(equation, planted)[0])


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_is_what_nan_spreads_from(name):
    function, *operands = CASES[name]
    equation, arrays = equation_of(function, *operands)
    kind = equation.primitive.name
    assert kind in ELEMENTWISE | BY_DERIVATIVES
    tracked = list(map(Tracked, arrays))
    operation = Operation(equation, kind, Around(), tracked)
    operation.results = list(map(Tracked, bind(equation, arrays)))
    result = operation.results[0].array
    random = np.random.default_rng(0)
    for number, array in enumerate(arrays):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            continue
        for flat in random.choice(array.size, min(3, array.size), replace=False):
            index = np.unravel_index(flat, array.shape)
            spread = spread_of_nan(equation, arrays, number, index)
            if kind == "conv_general_dilated" and number == 1:
                continue  # the kernel also meets the zeros of the padding, and NaN times 0 is NaN
            # Each element that it spreads to reads it, and no other element does.
            for y_flat in random.choice(result.size, min(3, result.size), replace=False):
                y_index = np.unravel_index(y_flat, result.shape)
                of_results = [np.zeros(y.array.shape, bool) for y in operation.results]
                of_results[0][y_index] = True
                assert read(operation, of_results)[number][index] == spread[y_index]
