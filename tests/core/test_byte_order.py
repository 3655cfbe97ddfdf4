"""NumPy arrays of the other byte order, such as files of other machines hold, give the numbers that they stand for."""

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


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of other tests, since these train with Optax."""


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
    assert tree_in_native_order(tree) is tree
    assert_equal(tree_in_native_order({"a": array, "b": 3}), {"a": X, "b": 3})


def test_layers():
    net = fnn.chain(fnn.dense(5), fnn.batch_norm(), fnn.tanh, fnn.dense(3))
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
        (fnn.cross_entropy, (LOGITS, LABELS, WEIGHTS)),
        (fnn.cross_entropy.gradient, (LOGITS, LABELS, WEIGHTS)),
        (fnn.huber.gradient, (LOGITS, LOGITS[::-1], WEIGHTS)),
        (fnn.metrics.accuracy, (LOGITS, LABELS)),
        (fnn.tanh, (X,)),
        (fnn.softmax.pullback, (X, X)),
        (fnn.l2(0.1), (PARAMS,)),
        (fnn.l1(0.1).gradient, (PARAMS,)),
    ],
)
def test_losses_metrics_activations_and_penalties(function, arguments):
    assert_equal(function(*swapped(arguments)), function(*arguments))


def test_gradient_checks(float64):
    params, state = fnn.dense(3).init(jax.random.key(0), (4,))
    given = swapped((params, state, X[:2], LABELS[:2]))
    report = fnn.check_gradients(fnn.dense(3), fnn.cross_entropy, *given, weights=swapped(np.ones(2)), mutants=False)
    assert report.passed
    assert {verdict.dtype for verdict in report.verdicts} == {"float64"}
    report = fnn.check_vjp(jnp.square, lambda x, y_bar: 2 * x * y_bar, swapped(X[0]), second_order=False, mutants=False)
    assert report.passed


def test_fit_and_sweep():
    split = fnn.data.Split(X, LABELS, X, LABELS)
    expected, found = (
        fnn.fit(fnn.dense(3), fnn.cross_entropy, optax.sgd(0.1), data, epochs=1, batch_size=6)
        for data in (split, swapped(split))
    )
    assert_equal(found.params, expected.params)
    expected, found = (
        fnn.sweep(fnn.dense(3), optax.sgd(0.1), fnn.grid(seed=[0]), data, epochs=1, batch_size=6)
        for data in (split, swapped(split))
    )
    assert expected.members[0].last("test_loss") == found.members[0].last("test_loss") > 0
