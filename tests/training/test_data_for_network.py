"""Warnings of ``fit`` about networks and data that can be trained, but probably not as they were meant."""

import warnings

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.data import Split
from functional_nn.losses import cross_entropy_with

VECTORS = np.ones((20, 4), np.float32)
LABELS = np.arange(20) % 4


@pytest.fixture
def checked(tmp_path):
    """Calls ``fit`` with a folder that it refuses: after the warnings, and before anything is compiled."""
    (tmp_path / "sweep.json").write_text("{}")

    def fit(net, loss, labels=LABELS):
        with pytest.raises(fnn.InputError, match="which holds a sweep"):
            fnn.fit(net, loss, optax.sgd(0.1), Split(VECTORS, labels), epochs=1, checkpoints=tmp_path)

    return fit


@pytest.mark.parametrize("loss", [fnn.cross_entropy, cross_entropy_with(label_smoothing=0.1)])
@pytest.mark.parametrize("last", [fnn.softmax, jax.nn.softmax, fnn.chain(fnn.dense(4), fnn.softmax)])
def test_a_softmax_before_cross_entropy(checked, loss, last):
    with pytest.warns(UserWarning, match="cross_entropy takes logits, and the network ends in a softmax") as caught:
        checked(fnn.chain(fnn.dense(4), last), loss)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_sigmoid_before_binary_cross_entropy(checked):
    with pytest.warns(UserWarning, match="Leave the sigmoid out"):
        checked(fnn.chain(fnn.dense(1), fnn.sigmoid), fnn.binary_cross_entropy, np.ones((20, 1), np.float32))


@pytest.mark.parametrize(
    ("net", "loss"),
    [
        (fnn.chain(fnn.dense(4), fnn.log_softmax), fnn.negative_log_likelihood),
        (fnn.chain(fnn.parallel(fnn.dense(4), fnn.softmax, combine="product")), fnn.cross_entropy),
    ],
)
def test_a_softmax_that_is_right(checked, net, loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked(net, loss)
