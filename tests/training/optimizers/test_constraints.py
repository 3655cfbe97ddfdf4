"""Optax transformations by path, against sums done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn

PARAMS = {
    "dense_0": {"weight": jnp.array([[3.0, 0.3], [4.0, 0.4]]), "bias": jnp.array([30.0, 40.0])},
    "neuron_0": {"weight": jnp.array([3.0, 4.0]), "bias": jnp.array(9.0)},
}


def moved(rule, params=PARAMS, updates=None):
    """The parameters after one update, by default of nothing."""
    updates = jax.tree.map(jnp.zeros_like, params) if updates is None else updates
    updates, _ = jax.jit(rule.update)(updates, rule.init(params), params)
    return optax.apply_updates(params, updates)


def test_max_norm_scales_units_that_are_too_large():
    """Column (3, 4) has norm 5 and is scaled by 2/5, column (0.3, 0.4) and the biases stay."""
    after = moved(fnn.training.max_norm(2.0))
    np.testing.assert_allclose(after["dense_0"]["weight"], [[1.2, 0.3], [1.6, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(after["neuron_0"]["weight"], [1.2, 1.6], rtol=1e-6)
    np.testing.assert_array_equal(after["dense_0"]["bias"], [30.0, 40.0])


def test_max_norm_bounds_the_norm_after_the_update():
    rule = optax.chain(optax.sgd(0.5), fnn.training.max_norm(1.0, "dense_0/weight"))
    gradient = jax.tree.map(lambda leaf: -10 * leaf, PARAMS)
    after = moved(rule, updates=gradient)
    np.testing.assert_allclose(after["dense_0"]["weight"], [[0.6, 0.6], [0.8, 0.8]], rtol=1e-5)
    np.testing.assert_allclose(after["neuron_0"]["weight"], [18.0, 24.0])


def test_max_norm_along_chosen_axes():
    after = moved(fnn.training.max_norm(1.0, "dense_0/*", axis=-1))["dense_0"]
    norms = np.array([[np.hypot(3, 0.3)], [np.hypot(4, 0.4)]])
    np.testing.assert_allclose(after["weight"], np.array([[3.0, 0.3], [4.0, 0.4]]) / norms, rtol=1e-6)
    kernel = {"weight": jnp.ones((2, 3, 5, 7))}
    assert np.allclose(moved(fnn.training.max_norm(1.0), kernel)["weight"], 30**-0.5)
    assert np.allclose(moved(fnn.training.max_norm(1.0, axis=(0, 1)), kernel)["weight"], 6**-0.5)


@pytest.mark.parametrize(("size", "expected"), [(0.0, 0.0), (1e30, 0.5)])
def test_fault_11_and_16_max_norm_at_the_ends_of_the_range(size, expected):
    updates = {"weight": jnp.full((4, 1), size - 1.0)}
    after = moved(fnn.training.max_norm(1.0), {"weight": jnp.ones((4, 1))}, updates)
    np.testing.assert_allclose(after["weight"], expected, rtol=1e-6)


def test_max_norm_may_be_traced_and_vmapped():
    after = jax.vmap(lambda limit: moved(fnn.training.max_norm(limit))["neuron_0"]["weight"])(jnp.array([1.0, 10.0]))
    np.testing.assert_allclose(after, [[0.6, 0.8], [3.0, 4.0]], rtol=1e-6)


def test_max_norm_without_parameters():
    rule = fnn.training.max_norm(1.0)
    with pytest.raises(fnn.InputError, match=r"params: expected the parameters.*update\(gradients, state, params\)"):
        rule.update(PARAMS, rule.init(PARAMS))


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan])
def test_limits_that_are_none(limit):
    with pytest.raises(fnn.InputError, match="limit: expected a number above 0"):
        fnn.training.max_norm(limit)


def test_paths_that_match_nothing():
    with pytest.raises(fnn.InputError, match="paths: expected a pattern that matches a parameter"):
        fnn.training.max_norm(1.0, "*weigth").init(PARAMS)


def test_decay_by_path():
    """Of gradient descent w ← w - η (g + λ w) for the weights alone."""
    rule = optax.chain(optax.add_decayed_weights(0.1, mask=fnn.training.path_mask()), optax.sgd(0.5))
    after = moved(rule, updates=jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_allclose(after["neuron_0"]["weight"], [3 - 0.5 * (1 + 0.3), 4 - 0.5 * (1 + 0.4)], rtol=1e-6)
    np.testing.assert_allclose(after["neuron_0"]["bias"], 8.5)


def test_a_mask_of_patterns_and_of_functions():
    chosen = {"dense_0": {"weight": False, "bias": True}, "neuron_0": {"weight": True, "bias": True}}
    assert fnn.training.path_mask(["*bias", "neuron_0/*"])(PARAMS) == chosen
    assert fnn.training.path_mask(lambda path: path != "dense_0/weight")(PARAMS) == chosen
