"""``find_non_finite_in``: what is an origin and what does no harm, places, loops, and wrong arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import functional_nn as fnn

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
    assert not found.found
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
    "rows": lambda y, z: jnp.stack([y, z], axis=1).reshape(4, 2)[jnp.array([1, 3])],
    "a product": lambda y, z: (jnp.concatenate([y, z]) @ jnp.ones((2, 3)))[2:],
    "a sum": lambda y, z: jnp.sum(jnp.stack([y, z]), axis=(1, 2))[1],
    "a transpose": lambda y, z: jnp.concatenate([y.T, z.T], axis=1).T[2:],
    "a cumulative sum": lambda y, z: jnp.cumsum(jnp.stack([y, z]), axis=1)[1],
    "an update": lambda y, z: jnp.concatenate([y, z]).at[:2].set(0.0),
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
    assert found.operands[0].largest == 1
    found = find(lambda x: jnp.log(x) + 1 / x, X)
    assert found.operation == "log"


# Arguments and constants


def test_an_argument_comes_before_operations():
    found = find(lambda params, x: jnp.log(params["a"]["w"] * x), {"a": {"w": X.at[1, 0].set(jnp.nan)}}, X)
    assert (found.argument, found.index, found.operation) == ("params/a/w", (1, 0), "")
    assert "params/a/w" in found.sentence


def test_an_infinite_argument_is_reported_with_what_it_became():
    found = find(jax.nn.softmax, jnp.full(3, -jnp.inf))
    assert (found.argument, found.count) == ("x", 3)
    assert "sub(-inf, -inf) = nan" in found.note


def test_a_constant_of_the_function_is_reported_where_it_is_read():
    table = np.array([1.0, np.nan], np.float32)
    found = find(lambda x: x * 2 + table, X)
    assert (found.operation, found.index) == ("add", (0, 1))
    assert "A constant that the program reads here is NaN" in found.cause


@pytest.mark.parametrize("function", [lambda x: jnp.full(2, jnp.nan), lambda x: np.float32(np.nan)])
def test_a_result_may_be_a_constant(function):
    found = find(function, X)
    assert np.isnan(found.value)
    assert "A constant that the program reads here is NaN" in found.sentence


# Places


def test_the_line_is_the_users():
    def loss(x):
        return jnp.sum(
            jnp.log(x),
        )

    found = find(jax.jit(jax.grad(loss)), X)
    assert found.place.startswith("test_find.py:")
    assert found.place.endswith("loss)")
    assert found.code == "jnp.log(x),"
    assert not found.called_from


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


def test_other_packages_are_named_with_the_line_that_calls_them():
    def loss(x):
        return optax.cosine_similarity(0 * x, x)

    found = find(loss, X)
    assert found.place.endswith("(cosine_similarity)")
    assert found.called_from.endswith("loss)")


def test_a_function_of_jax_as_a_branch_has_the_line_of_the_condition():
    def choose(x):
        return lax.cond(x[0, 0] < 1, jnp.log, jnp.sin, x)

    assert find(choose, X).code == "return lax.cond(x[0, 0] < 1, jnp.log, jnp.sin, x)"


def test_only_functions_whose_derivative_is_infinite_at_the_argument_are_named():
    def loss(x):
        return jnp.sum(jnp.log(1 + x) + jnp.sqrt(x) + jnp.arccos(x / 100))

    assert find(jax.grad(loss), X).derivative_of == ("sqrt",)


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

    found = find(jax.grad(lambda x: lax.scan(step, 1.0, x)[0]), jnp.full(1500, 2.0))
    assert found.operation == "mul"
    assert 120 < found.steps[0][1] < 130 or found.steps[0][1] > 1370


# Settings and arguments


def test_jax_debug_nans_does_not_disturb():
    with jax.debug_nans(True):
        assert find(jnp.log, X).operation == "log"


def test_float64(float64):
    found = find(jnp.exp, jnp.array([1.0, 710.0]))
    assert (found.dtype, found.operands[0].dtype) == ("float64", "float64")
    assert "1.8e+308, the largest float64" in found.cause


def test_wrong_arguments():
    with pytest.raises(fnn.InputError, match="function: expected a function of the arguments, got 3"):
        find(3, X)
    with pytest.raises(fnn.InputError, match="x/a: expected an array of numbers, got 'b'"):
        find(lambda x: x, {"a": "b"})
    with pytest.raises(fnn.InputError, match="x: expected an array with known numbers, got a traced float32"):
        jax.jit(lambda x: find(jnp.log, x) or x)(X)
    with pytest.raises(ZeroDivisionError):
        find(lambda x: x * (1 / 0), X)


def test_results_that_are_not_finite_are_listed():
    found = find(lambda x: {"a": jnp.log(x), "b": (x, 1 / x)}, X)
    assert found.affected == ("a", "b/1")
    assert find(lambda x: (x, jnp.log(x)), X).affected == ("result/1",)
    assert find(jnp.log, X).affected == ("result",)
