"""What the report says, word for word."""

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn

NORM_AT_0 = """\
Not finite: result.

The first such number was made by div, a part of norm, in the derivative of sqrt, in the backward pass
  at test_report.py:LINE (test_an_operation.<locals>.length)
     return jnp.linalg.norm(x)
  div(0.5, 0) = inf

Cause: The derivative of sqrt is not finite at this point.
Remedy: Keep the argument of sqrt away from 0, for example by adding 1e-6 to it."""

PRODUCT = """\
Not finite: result.

The first such number was made by dot_general (a matrix product), in the forward pass
  at test_report.py:LINE (test_elements_and_large_arguments.<locals>.product)
     return params @ jnp.ones(2)
  element (1,) of a float32 of shape (3,): dot_general((2e+38 to 3e+38), 1) = inf (2 of its elements are not finite)

Cause: Overflow: a number is larger than 3.4e+38, the largest float32.
Remedy: Keep the numbers smaller: normalize the inputs, use a smaller learning rate, or limit the gradient
(fnn.training.with_clipping).
The numbers in params are as large as 3.0e+38. Parameters grow so large if training diverges: use a smaller
learning rate."""

ARGUMENT = """\
Not finite: result.

The argument x/a is not finite (float32 of shape (2, 2); 2 of its elements are not finite).
  Element (0, 1) is nan.

Cause: x is not finite before anything is computed.
Remedy: Look at what made it. In data, remove such examples or replace the numbers, for example by
np.nan_to_num."""


def without_line(found):
    line = found.place.split(":")[1].split(" ")[0]
    return str(found).replace(f":{line} (", ":LINE (")


def test_an_operation():
    def length(x):
        return jnp.linalg.norm(x)

    assert without_line(fnn.find_non_finite_in(jax.grad(length), jnp.zeros(2))) == NORM_AT_0


def test_elements_and_large_arguments():
    def product(params):
        return params @ jnp.ones(2)

    found = fnn.find_non_finite_in(product, jnp.array([[1.0, 2.0], [2e38, 3e38], [3e38, 3e38]]))
    assert without_line(found) == PRODUCT


def test_an_argument():
    found = fnn.find_non_finite_in(lambda x: x["a"] + 1, {"a": jnp.array([[0, np.nan], [np.inf, 1]])})
    assert str(found) == repr(found) == ARGUMENT
    assert found.sentence == "Element (0, 1) of the argument x/a is nan. x is not finite before anything is computed."
