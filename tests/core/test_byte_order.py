"""NumPy arrays of the other byte order, such as files of other machines hold, give the numbers that they stand for."""

import operator
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.validation import as_array, as_host_array, tree_in_native_order

OTHER = ">" if sys.byteorder == "little" else "<"
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 4)).astype(np.float32)
LABELS = np.arange(6, dtype=np.int32) % 3


def swapped(tree):
    """The same numbers in the other byte order."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.asarray(leaf).dtype.newbyteorder(OTHER)), tree)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_arrays_are_converted_and_others_left_alone():
    array = swapped(X)
    assert not array.dtype.isnative
    for convert in (as_array, as_host_array):
        assert convert("x", array).dtype == np.float32
        assert_equal(convert("x", array), X)
    tree = {"a": X, "b": (jnp.ones(2), 3)}
    assert all(map(operator.is_, jax.tree.leaves(tree_in_native_order(tree)), jax.tree.leaves(tree)))
    assert_equal(tree_in_native_order({"a": array, "b": 3}), {"a": X, "b": 3})


def test_layers():
    net = fnn.batch_norm()
    params, state = jax.tree.map(np.asarray, net.init(jax.random.key(0), (4,)))
    given = swapped((params, state, X))
    assert_equal(net.apply(*given, train=False), net.apply(params, state, X, train=False))
    (y, _, pullback), (expected, _, expected_pullback) = (
        net.vjp(*arguments, train=True) for arguments in (given, (params, state, X))
    )
    assert_equal(y, expected)
    y_bar = np.asarray(expected)
    assert_equal(pullback(swapped(y_bar)), expected_pullback(y_bar))


LOGITS = RANDOM.normal(size=(6, 3)).astype(np.float32)
WEIGHTS = np.arange(1, 7, dtype=np.float32)
PARAMS = {"weight": X, "bias": X[0]}


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (fnn.mean_squared_error.gradient, (LOGITS, LOGITS[::-1], WEIGHTS)),
        (fnn.metrics.accuracy, (LOGITS, LABELS)),
        (fnn.l2(0.1), (PARAMS,)),
    ],
)
def test_losses_metrics_and_penalties(function, arguments):
    assert_equal(function(*swapped(arguments)), function(*arguments))


def test_fit():
    split = fnn.data.Split(X, LABELS, X, LABELS)
    expected, found = (
        fnn.fit(fnn.dense(3), fnn.cross_entropy, optax.sgd(0.1), data, epochs=1, batch_size=6)
        for data in (split, swapped(split))
    )
    assert_equal(found.params, expected.params)
    assert found.history[-1].metrics["test_loss"] == expected.history[-1].metrics["test_loss"] > 0
