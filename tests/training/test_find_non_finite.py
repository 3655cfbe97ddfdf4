"""Planted faults in networks: ``find_non_finite`` names the layer, the operation, the pass and the argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0])


def changed(tree, path, index, value):
    return fnn.trees.replace(tree, {path: fnn.trees.flatten(tree)[path].at[index].set(value)})


def with_nan(x, index):
    x = x.copy()
    x[index] = np.nan
    return x


def search(net, x=X, labels=LABELS, loss=fnn.cross_entropy, change=None, **options):
    params, state = net.init(KEY, x.shape[1:])
    if change:
        params = changed(params, *change)
    return fnn.find_non_finite(net, loss, params, state, x, labels, **options)


SUM = fnn.dense(2, initializer=jax.nn.initializers.ones)
MLP = fnn.chain(fnn.dense(4), fnn.tanh, fnn.dense(2))


def scaled(factor):
    return fnn.Layer("scaled", lambda key, in_shape: ({}, {}), lambda params, state, x, **_: (x * factor, state, None))


def wrong_backward():
    """A layer y = x with a formula that divides by 0."""

    def forward(params, state, x, *, train, key=None):
        return x, state, x

    def backward(x, y_bar):
        return {}, y_bar / (x - x)

    return fnn.Layer("wrong", lambda key, in_shape: ({}, {}), forward, backward)


OPERATIONS = {
    "nothing": (MLP, {}, ("", "", ""), "All results are finite."),
    "the penalty": (
        MLP,
        {"penalty": lambda params: jnp.sum(jnp.sqrt(params["dense_0"]["bias"]))},
        ("div", "penalty", "backward pass"),
        "in the derivative of sqrt",
    ),
    "a formula that divides by 0": (
        fnn.with_hand_vjp(fnn.chain(fnn.dense(4), fnn.residual(wrong_backward()), fnn.dense(2))),
        {},
        ("div", "residual_0/wrong_0", "backward pass"),
        "The divisor is 0.",
    ),
    "repeated layers": (
        fnn.chain(fnn.repeat(fnn.dense(3, initializer=jax.nn.initializers.constant(1e9)), 6), fnn.dense(2)),
        {},
        ("dot_general", "repeat_0/dense_0", "forward pass"),
        "in step 4 of a scan",
    ),
    "float16": (
        fnn.chain(fnn.dense(4), scaled(3e4), fnn.dense(2)),
        {"precision": "float16", "x": 10 * X},
        ("mul", "scaled_0", "forward pass"),
        "65,504, the largest float16",
    ),
}
"""Each with the operation, the layer and the pass; and what the report says besides."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_operation_and_the_layer_are_named(name):
    net, options, expected, words = OPERATIONS[name]
    found = search(net, **options)
    assert words in str(found)
    assert (found.operation, found.layer, found.stage) == expected
    assert not found.argument


ARGUMENTS = {
    "params": ({"change": ("dense_1/weight", (2, 1), jnp.nan)}, "params/dense_1/weight", (2, 1)),
    "data": ({"x": with_nan(X, (3, 1))}, "x", (3, 1)),
    "labels": ({"labels": with_nan(X[:, :2], (1, 0)), "loss": fnn.mean_squared_error}, "labels", (1, 0)),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_is_not_finite_is_named(name):
    options, argument, index = ARGUMENTS[name]
    found = search(MLP, **options)
    assert (found.argument, found.index, found.count, found.operation) == (argument, index, 1, "")
    assert np.isnan(found.value)
    assert f"The argument {argument} is not finite" in str(found)


def test_large_parameters_are_mentioned_and_large_data_as_well():
    assert "use a smaller learning rate" in search(MLP, change=("dense_1/weight", ..., 3e38)).note
    assert search(SUM, x=np.full((4, 3), 2e38, np.float32)).note == "The numbers in x are as large as 2.0e+38."
    assert not search(fnn.chain(fnn.dense(4), jnp.log, fnn.dense(2))).note


def test_noise_is_that_of_the_key():
    """One of two keys drops the input that is too large."""
    x = np.ones((4, 3), np.float32)
    x[0, 0] = 3e38
    net = fnn.chain(fnn.dropout(0.5), SUM)
    results = {bool(search(net, x=x, key=jax.random.key(seed))) for seed in range(2)}
    assert results == {True, False}


def test_the_affected_results_are_listed_with_the_loss_first():
    found = search(fnn.dense(2), x=with_nan(X, (0, 0)))
    assert found.affected == ("loss", "gradient/bias", "gradient/weight")
    assert search(MLP).sentence == "All results are finite."
