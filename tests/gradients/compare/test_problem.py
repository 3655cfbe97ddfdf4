"""Functions that capture NumPy arrays can be checked after they were jitted in float32, and jitted after the check."""

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn

FACTOR = np.array([[0.1, 0.7]])
X, TARGET = np.array([[0.1, 0.7], [0.3, -0.2]]), np.array([[1.0], [0.5]])


def scaled(x):
    return FACTOR * x**2


def scaled_vjp(x, y_bar):
    return 2 * FACTOR * x * y_bar


def test_check_vjp_of_a_function_that_was_jitted():
    function, formula = jax.jit(scaled), jax.jit(scaled_vjp)
    x = np.array([[0.3, -1.7]])
    for _ in range(2):
        assert fnn.check_vjp(function, formula, x, second_order=False, mutants=False).passed
        y, bar = jax.jit(function)(jnp.float32(x)), jax.jit(formula)(jnp.float32(x), jnp.ones((1, 2)))
        assert y.dtype == bar.dtype == jnp.float32


def test_check_gradients_of_a_gradient_that_was_jitted():
    def by_hand(params):
        """The gradient of the mean of (x w - target)²; x and the target are captured."""
        z_bar = 2 * (X @ params["weight"] - TARGET) / len(X)
        return {"weight": X.T @ z_bar}

    params = {"weight": np.array([[0.6], [-0.4]])}
    arguments = fnn.dense(1, bias=False), fnn.mean_squared_error, params, {}, X, TARGET
    for _ in range(2):
        assert fnn.check_gradients(*arguments, gradient=by_hand, mutants=False).passed
        assert jax.jit(by_hand)(jax.tree.map(jnp.float32, params))["weight"].dtype == jnp.float32


def test_caches_are_kept_if_nothing_is_captured():
    step = jax.jit(lambda x: x + 1)
    step(1.0)
    fnn.check_vjp(jnp.square, lambda x, y_bar: 2 * x * y_bar, np.array([0.5, -1.0]), second_order=False, mutants=False)
    assert step._cache_size() == 1
