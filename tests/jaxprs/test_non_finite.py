"""The search for the origin of a number that is not finite: planted faults, what does no harm, places, loops, words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import functional_nn as fnn

# Planted faults

ZERO_AT_1 = jnp.array([2.0, 0.0, 1.0])
NEGATIVE_AT_1 = jnp.array([2.0, -1.0, 1.0])
LARGE_AT_1 = jnp.array([2.0, 100.0, 1.0])
ZEROS = jnp.zeros(3)
ROWS = jnp.array([[1.0, 2.0, 3.0], [0.5, 0.0, 2.0], [1.0, 1.0, 1.0]])


def gradient(function):
    return jax.grad(lambda *arguments: jnp.sum(function(*arguments)))


def masked_softmax(scores, mask):
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)


def standardized(x):
    return (x - jnp.mean(x)) / jnp.sqrt(jnp.var(x))


@jax.custom_vjp
def with_a_wrong_formula(x):
    return jnp.abs(x)


with_a_wrong_formula.defvjp(lambda x: (jnp.abs(x), x), lambda x, y_bar: (y_bar * x / jnp.abs(x),))


def branch(x):
    return lax.cond(x[0] > 0, lambda x: lax.rsqrt(x), lambda x: x, x)


FORWARD = {
    "logarithm of 0": (jnp.log, [ZERO_AT_1], "log", (1,)),
    "division by 0": (lambda x: 1 / x, [ZERO_AT_1], "div", (1,)),
    "overflow of exp": (jnp.exp, [LARGE_AT_1], "exp", (1,)),
    "overflow of a float16 product": (lambda x: x * x, [jnp.float16([1, 300, 1])], "mul", (1,)),
    "cast to float16": (lambda x: x.astype(jnp.float16), [LARGE_AT_1 * 1e4], "convert_element_type", (1,)),
    "root of a negative number": (jnp.sqrt, [NEGATIVE_AT_1], "sqrt", (1,)),
    "power of a negative number": (lambda x: x**0.5, [NEGATIVE_AT_1], "pow", (1,)),
    "variance 0": (standardized, [jnp.ones(3)], "div", (0,)),
    "a mask that allows something in each row": (masked_softmax, [ROWS, ROWS > 0.5], None, None),
    "a row without anything allowed": (masked_softmax, [ROWS, ROWS > 1], "sub", (2, 0)),
    "multiplication by a mask": (lambda x: (1 - x) * -jnp.inf, [ZERO_AT_1], "mul", (2,)),
    "a chosen NaN": (lambda x: jnp.where(x > 1, x, jnp.nan), [ROWS], "select_n", (0, 0)),
    "an index out of range": (lambda x: jnp.take(x, jnp.array([0, 5])), [ZERO_AT_1], "gather", (1,)),
    "cond": (branch, [ZERO_AT_1], "rsqrt", (1,)),
    "integers that overflow": (lambda x: x.astype(jnp.int32) * 2**30 + 2**30, [LARGE_AT_1], None, None),
    "no Cholesky factor": (jnp.linalg.cholesky, [-jnp.eye(3)], "cholesky", None),
}
BACKWARD = {
    "norm at 0": (jnp.linalg.norm, [ZEROS], ("sqrt",)),
    "a logarithm that where does not choose": (lambda x: jnp.where(x > 0, jnp.log(x), 0), [ZERO_AT_1], ("log",)),
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
    "a logarithm of a subnormal number": (jnp.log, 1e-40, "The logarithm of 0 is -inf."),
    "a root of a subnormal number": (lax.rsqrt, 1e-40, "1 / √x is infinite at 0."),
    "a root of a negative number": (lax.rsqrt, -1.0, "The square root of a negative number"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_causes_of_tiny_and_negative_numbers(name):
    function, x, words = CAUSES[name]
    assert fnn.find_non_finite_in(function, jnp.float32(x)).cause.startswith(words)


def test_a_loop_under_vmap_goes_on_until_the_last_example_has_ended():
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


X = jnp.array([[0.0, 1.0], [2.0, 3.0]])
find = fnn.find_non_finite_in


# What does no harm is no origin


HARMLESS = {
    "a mask of -inf": (lambda x: jax.nn.softmax(jnp.where(x > 0.5, x, -jnp.inf), axis=None), [X]),
    "the initial value of a maximum": (lambda x: lax.reduce(x, -jnp.inf, lax.max, (0, 1)), [X]),
    "a running maximum": (lambda x: lax.scan(lambda m, row: (jnp.maximum(m, row), m * 0), -jnp.inf, x[0])[0], [X]),
    "infinity in exp": (lambda x: jnp.exp(-1 / x), [X]),
    "a saturated sigmoid": (lambda x: jax.nn.sigmoid(jnp.exp(100 * x)), [X]),
    "a NaN that where does not choose": (lambda x: jnp.where(x > 0, jnp.log(x), 0), [X]),
    "a NaN that is cut off": (lambda x: jnp.log(x)[1:], [X]),
    "a comparison": (lambda x: jnp.log(x) > 0, [X]),
    "an argument that is not used": (lambda x, y: x, [X, X * jnp.nan]),
    "a masked argument": (lambda x, bias: jax.nn.softmax(x + bias), [X, jnp.array([0, -jnp.inf])]),
    "integers, keys and no results": (lambda i, key: (i * 2**30 * 4, key, ()), [7, jax.random.key(0)]),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_not_reported(name):
    function, arguments = HARMLESS[name]
    found = find(function, *arguments)
    assert not found
    assert str(found) == "All results are finite."


def planted(spoil):
    """A harmful 1 / 0 after something harmless that is not finite either."""

    def function(x):
        y = jnp.log(x - 5)  # NaN everywhere
        z = 1 / x  # infinite at (0, 0)
        return spoil(y, z)

    return function


SPOILED = {
    "where": lambda y, z: jnp.where(jnp.ones((2, 2), bool), z, y),
    "slices": lambda y, z: jnp.concatenate([y, z])[2:],
    "a product": lambda y, z: (jnp.concatenate([y, z]) @ jnp.ones((2, 3)))[2:],
    "a cumulative sum": lambda y, z: jnp.cumsum(jnp.stack([y, z]), axis=1)[1],
    "jit": jax.jit(lambda y, z: jnp.stack([y, z])[1]),
    "scan": lambda y, z: lax.scan(lambda carry, row: (carry, row), 0.0, jnp.stack([y, z]))[1][1],
    "carry": lambda y, z: lax.scan(lambda carry, row: (row, None), y, jnp.stack([y, z]))[0],
    "cond": lambda y, z: lax.cond(y[0, 0] > 0, lambda y, z: y, lambda y, z: z, y, z),
    "while": lambda y, z: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[2], c[2]), (0, y, z))[1],
}


@pytest.mark.parametrize("name", SPOILED)
def test_only_elements_that_reach_a_result_count(name):
    found = find(planted(SPOILED[name]), X)
    assert (found.operation, found.index, found.count) == ("div", (0, 0), 1)


def test_the_forward_pass_comes_first_and_then_the_order():
    """The factor 1/(2·√x) is computed before the division, but the division made the loss infinite."""
    found = find(jax.value_and_grad(lambda x: jnp.sum(1 / jnp.sqrt(x))), X)
    assert (found.operation, found.stage) == ("div", "forward pass")
    assert found.operands[0] == "1"
    found = find(lambda x: jnp.log(x) + 1 / x, X)
    assert found.operation == "log"


# Arguments and constants


def test_an_argument_comes_before_operations():
    found = find(lambda params, x: jnp.log(params["a"]["w"] * x), {"a": {"w": X.at[1, 0].set(jnp.nan)}}, X)
    assert (found.argument, found.index, found.operation) == ("params/a/w", (1, 0), "")
    assert "params/a/w" in found.sentence


def test_a_constant_of_the_function_is_reported_where_it_is_read():
    table = np.array([1.0, np.nan], np.float32)
    found = find(lambda x: x * 2 + table, X)
    assert (found.operation, found.index) == ("add", (0, 1))
    assert "A constant that the program reads here is NaN" in found.cause


# Places


def test_the_line_is_the_users():
    def loss(x):
        return jnp.sum(
            jnp.log(x),
        )

    found = find(jax.jit(jax.grad(loss)), X)
    assert found.place.startswith("test_non_finite.py:")
    assert found.place.endswith("loss)")
    assert found.code == "jnp.log(x),"


def test_functions_of_jax_are_named_with_the_line_that_calls_them():
    """JAX keeps the trace of ``norm`` from its first call, so its lines would be those of the first call."""

    def first(x):
        return jnp.linalg.norm(x)

    def second(x):
        return 1 / jnp.linalg.norm(0 * x) ** 0 + jnp.linalg.norm(0 * x)

    jax.grad(first)(X)
    found = find(jax.grad(second), X)
    assert found.inside == "norm"
    assert "(test_functions_of_jax" in found.place
    assert found.code.startswith("return 1 /")


# Loops


def test_steps_of_nested_loops_are_named():
    def inner(carry, x):
        return carry, 1 / (x - 3)

    def outer(carry, row):
        return carry, lax.scan(inner, 0.0, row, reverse=True)[1]

    found = find(jax.jit(lambda x: lax.scan(outer, 0.0, x)), X)
    assert found.steps == (("scan", 1), ("scan", 1))
    found = find(jax.vmap(lambda row: lax.scan(inner, 0.0, row)[1]), X)
    assert (found.steps, found.index) == ((("scan", 1),), (1,))


def test_the_backward_pass_of_a_loop_is_searched():
    def step(carry, x):
        return carry + jnp.where(x > 0, jnp.sqrt(x), 0), None

    found = find(jax.grad(lambda x: jnp.sum(lax.scan(step, jnp.zeros(2), x)[0])), X)
    assert (found.stage, found.derivative_of, found.index) == ("backward pass", ("sqrt",), (0,))
    assert found.steps == (("scan", 0),)


def test_a_factor_of_a_derivative_that_does_not_change_in_a_loop():
    """JAX computes it before the loop, outside of any scope."""
    found = find(jax.grad(lambda x: jnp.sum(lax.fori_loop(0, 4, lambda i, y: y * jnp.sqrt(x), x))), X)
    assert (found.stage, found.derivative_of, found.index, found.steps) == ("backward pass", ("sqrt",), (0, 0), ())


def test_many_steps_do_not_take_long_or_recurse_too_deeply():
    def step(carry, x):
        return carry * x, carry

    found = find(jax.grad(lambda x: lax.scan(step, 1.0, x)[0]), jnp.full(500, 2.0))
    assert found.operation == "mul"
    assert 120 < found.steps[0][1] < 130 or found.steps[0][1] > 370


# Settings and arguments


def test_wrong_arguments():
    with pytest.raises(fnn.InputError, match="function: expected a function of the arguments, got 3"):
        find(3, X)
    with pytest.raises(fnn.InputError, match="x: expected an array with known numbers, got a traced float32"):
        jax.jit(lambda x: find(jnp.log, x) or x)(X)
    with pytest.raises(ZeroDivisionError):
        find(lambda x: x * (1 / 0), X)


def test_an_argument_that_is_a_tree():
    found = fnn.find_non_finite_in(lambda x: x["a"] + 1, {"a": jnp.array([[0, np.nan], [np.inf, 1]])})
    assert found.sentence == "Element (0, 1) of the argument x/a is nan. x is not finite before anything is computed."
    assert "(float32 of shape (2, 2); 2 of its elements are not finite)" in str(found)


def test_the_advice_for_a_root_has_a_finite_gradient():
    """The gradient of ``sqrt(max(x, 0))`` is infinite where a variance became negative by rounding."""

    def deviation(x, root):
        return root(jnp.mean(x**2) - jnp.mean(x) ** 2)

    x = jnp.full(6, 33.3, jnp.float32)
    assert jnp.mean(x**2) < jnp.mean(x) ** 2
    found = fnn.find_non_finite_in(lambda x: deviation(x, jnp.sqrt), x)
    advised = "jnp.sqrt(jnp.maximum(x, 1e-6))"
    assert advised in found.remedy
    root = eval(f"lambda x: {advised}", {"jnp": jnp})
    assert jnp.all(jnp.isfinite(jax.grad(deviation)(x, root)))
