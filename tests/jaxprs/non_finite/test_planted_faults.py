"""Planted faults: the operation that first made a NaN or an infinite number is found, with its place and its cause."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import functional_nn as fnn

ZERO_AT_1 = jnp.array([2.0, 0.0, 1.0])
NEGATIVE_AT_1 = jnp.array([2.0, -1.0, 1.0])
LARGE_AT_1 = jnp.array([2.0, 100.0, 1.0])
ZEROS = jnp.zeros(3)
ROWS = jnp.array([[1.0, 2.0, 3.0], [0.5, 0.0, 2.0], [1.0, 1.0, 1.0]])


def gradient(function):
    return jax.grad(lambda *arguments: jnp.sum(function(*arguments)))


def softmax_of_a_beginner(x):
    return jnp.exp(x) / jnp.sum(jnp.exp(x))


def log_sum_exp_by_hand(x):
    return jnp.log(jnp.sum(jnp.exp(x)))


def masked_softmax(scores, mask):
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)


def cosine(x, y):
    return x @ y / (jnp.sqrt(x @ x) * jnp.sqrt(y @ y))


def standardized(x):
    return (x - jnp.mean(x)) / jnp.sqrt(jnp.var(x))


def entropy(p):
    return -jnp.sum(p * jnp.log(p))


@jax.custom_vjp
def with_a_wrong_formula(x):
    return jnp.abs(x)


with_a_wrong_formula.defvjp(lambda x: (jnp.abs(x), x), lambda x, y_bar: (y_bar * x / jnp.abs(x),))


def running_products(x):
    def step(carry, row):
        carry = carry * row
        return carry, 1 / carry

    return lax.scan(step, jnp.ones(3), x)[1]


def squared_until_large(x):
    return lax.while_loop(lambda carry: carry[0] < 8, lambda carry: (carry[0] + 1, carry[1] * carry[1]), (0, x))[1]


def branch(x):
    return lax.cond(x[0] > 0, lambda x: lax.rsqrt(x), lambda x: x, x)


FORWARD = {
    "logarithm of 0": (jnp.log, [ZERO_AT_1], "log", (1,)),
    "logarithm of a negative number": (jnp.log, [NEGATIVE_AT_1], "log", (1,)),
    "log1p of -1": (jnp.log1p, [NEGATIVE_AT_1], "log1p", (1,)),
    "division by 0": (lambda x: 1 / x, [ZERO_AT_1], "div", (1,)),
    "remainder": (lambda x: 5.0 % x, [ZERO_AT_1], "rem", (1,)),
    "overflow of exp": (jnp.exp, [LARGE_AT_1], "exp", (1,)),
    "overflow of a square": (lambda x: x**2, [LARGE_AT_1 * 1e20], "integer_pow", (0,)),
    "overflow of a float16 product": (lambda x: x * x, [jnp.float16([1, 300, 1])], "mul", (1,)),
    "overflow of a float16 sum": (lambda x: x @ x, [jnp.float16([200, 200, 1])], "dot_general", ()),
    "cast to float16": (lambda x: x.astype(jnp.float16), [LARGE_AT_1 * 1e4], "convert_element_type", (1,)),
    "root of a negative number": (jnp.sqrt, [NEGATIVE_AT_1], "sqrt", (1,)),
    "power of a negative number": (lambda x: x**0.5, [NEGATIVE_AT_1], "pow", (1,)),
    "arccos beyond 1": (jnp.arccos, [LARGE_AT_1 / 2], "acos", (1,)),
    "arctanh at 1": (jnp.arctanh, [jnp.array([0.5, 1.0, 0.0])], "atanh", (1,)),
    "gamma at 0": (jax.scipy.special.gammaln, [ZERO_AT_1], "lgamma", (1,)),
    "inverse error function at 1": (jax.scipy.special.erfinv, [jnp.array([0.5, 1.0, 0.0])], "erf_inv", (1,)),
    "softmax of a beginner": (softmax_of_a_beginner, [LARGE_AT_1], "exp", (1,)),
    "logsumexp by hand": (log_sum_exp_by_hand, [LARGE_AT_1], "exp", (1,)),
    "variance 0": (standardized, [jnp.ones(3)], "div", (0,)),
    "cosine of zeros": (cosine, [ZEROS, ZERO_AT_1], "div", ()),
    "entropy": (entropy, [ZERO_AT_1 / 3], "log", (1,)),
    "a mask that allows something in each row": (masked_softmax, [ROWS, ROWS > 0.5], None, None),
    "a row without anything allowed": (masked_softmax, [ROWS, ROWS > 1], "sub", (2, 0)),
    "multiplication by a mask": (lambda x: (1 - x) * -jnp.inf, [ZERO_AT_1], "mul", (2,)),
    "a chosen NaN": (lambda x: jnp.where(x > 1, x, jnp.nan), [ROWS], "select_n", (0, 0)),
    "an index out of range": (lambda x: jnp.take(x, jnp.array([0, 5])), [ZERO_AT_1], "gather", (1,)),
    "jit in jit": (jax.jit(lambda x: jax.jit(jnp.log)(x) + 1), [ZERO_AT_1], "log", (1,)),
    "vmap": (jax.vmap(lambda row: 1 / row[1]), [ROWS], "div", (1,)),
    "cond": (branch, [ZERO_AT_1], "rsqrt", (1,)),
    "while": (squared_until_large, [LARGE_AT_1], "mul", (1,)),
    "scan": (running_products, [ROWS], "div", (1,)),
    "integers that overflow": (lambda x: x.astype(jnp.int32) * 2**30 + 2**30, [LARGE_AT_1], None, None),
    "no Cholesky factor": (jnp.linalg.cholesky, [-jnp.eye(3)], "cholesky", None),
}
BACKWARD = {
    "root at 0": (jnp.sqrt, [ZERO_AT_1], ("sqrt",)),
    "power at 0": (lambda x: x**0.5, [ZERO_AT_1], ("pow",)),
    "norm at 0": (jnp.linalg.norm, [ZEROS], ("sqrt",)),
    "distance of equal points": (lambda x, y: jnp.sqrt(jnp.sum((x - y) ** 2)), [ROWS, ROWS], ("sqrt",)),
    "a root that where does not choose": (lambda x: jnp.where(x > 0, jnp.sqrt(x), 0), [ZERO_AT_1], ("sqrt",)),
    "a logarithm that where does not choose": (lambda x: jnp.where(x > 0, jnp.log(x), 0), [ZERO_AT_1], ("log",)),
    "arccos at 1": (jnp.arccos, [jnp.array([0.5, 1.0, 0.0])], ("acos",)),
    "a formula of its own": (with_a_wrong_formula, [ZERO_AT_1], ()),
    "rematerialization": (jax.checkpoint(lambda x: jnp.where(x > 0, jnp.log(x), 0)), [ZERO_AT_1], ("log",)),
    "vmap": (jax.vmap(lambda row: jnp.linalg.norm(row[1:])), [ROWS * jnp.array([1, 0, 0])], ("sqrt",)),
}


@pytest.mark.parametrize("name", FORWARD)
def test_the_forward_pass(name):
    function, arguments, operation, index = FORWARD[name]
    found = fnn.find_non_finite_in(function, *arguments)
    if operation is None:
        assert not found
        return
    assert (found.operation, found.stage) == (operation, "forward pass")
    assert index is None or found.index == index
    assert found.cause
    assert found.remedy
    assert not np.isfinite(found.value)


CAUSES = {
    "overflow of a power of a negative number": (lambda x: x**3.0, -1e20, "Overflow"),
    "a power that is not real": (lambda x: x**3.5, -1e20, "A negative number has real powers"),
    "a logarithm of a subnormal number": (jnp.log, 1e-40, "The logarithm of 0 is -inf. XLA takes this number as 0"),
    "a root of a subnormal number": (lax.rsqrt, 1e-40, "1 / √x is infinite at 0. XLA takes this number as 0"),
    "a root of a negative number": (lax.rsqrt, -1.0, "The square root of a negative number"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_fault_93_causes_of_tiny_and_negative_numbers(name):
    function, x, words = CAUSES[name]
    assert fnn.find_non_finite_in(function, jnp.float32(x)).cause.startswith(words)


def test_fault_60_a_loop_under_vmap_goes_on_until_the_last_example_has_ended():
    def squared(steps, x):
        return lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, c[1] * c[1]), (0, x))[1]

    found = fnn.find_non_finite_in(jax.vmap(squared), jnp.array([9, 1, 3]), LARGE_AT_1)
    assert (found.operation, found.index, found.steps) == ("mul", (0,), (("while", 6),))


@pytest.mark.parametrize("name", BACKWARD)
def test_the_backward_pass(name):
    function, arguments, derivative_of = BACKWARD[name]
    assert not fnn.find_non_finite_in(function, *arguments)
    found = fnn.find_non_finite_in(gradient(function), *arguments)
    assert (found.stage, found.derivative_of) == ("backward pass", derivative_of)
    assert ("does not use" in found.cause) == ("where" in name or name == "rematerialization")
    assert found.remedy
