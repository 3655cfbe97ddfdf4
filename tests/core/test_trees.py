"""Parameters by path, summaries and operation counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import functional_nn as fnn
from functional_nn.core import trees


def test_unflatten_is_the_inverse_of_flatten():
    tree = {"a": {"b": {"a": 1, "c_0": 2}, "c": 3}, "ab": {"b": 4}, "b": 5}
    assert trees.flatten(tree)["a/b/c_0"] == 2
    assert trees.unflatten(trees.flatten(tree)) == tree


def test_select_by_pattern_patterns_and_function():
    params = {"dense_0": {"weight": 1, "bias": 2}, "head_0": {"weight": 3}}
    assert trees.select(params, "*weight") == ["dense_0/weight", "head_0/weight"]
    assert trees.select(params, ["head*", "*/bias"]) == ["dense_0/bias", "head_0/weight"]
    assert trees.select(params, lambda path: path.startswith("head")) == ["head_0/weight"]
    with pytest.raises(fnn.InputError, match=r"a pattern that matches a parameter.*There are: dense_0/bias"):
        trees.select(params, "*wieght")


@pytest.mark.parametrize("rate", [-1.0, float("nan")])
@pytest.mark.parametrize("penalty", [fnn.l1, fnn.l2])
def test_penalty_rates(penalty, rate):
    with pytest.raises(fnn.InputError, match="rate: expected a number not below 0"):
        penalty(rate)


def test_penalties_leave_biases_and_scales_out():
    net = fnn.models.mlp(3, hidden=(4,), batch_norm=True)
    params, _ = net.init(jax.random.key(0), (5,))
    gradient = trees.flatten(fnn.l2(1.0).gradient(params))
    assert {path for path, leaf in gradient.items() if np.any(leaf)} == {"dense_0/weight", "dense_1/weight"}


def test_summary_of_the_mnist_network():
    """Parameters and FLOPs by hand: a dense layer costs 2 · in · out for the product and out for the bias."""
    rows = {row.layer: row for row in fnn.summary(fnn.models.mlp(10), (28, 28, 1)).rows}
    assert rows["dense_0"] == ("dense_0", (128,), 784 * 128 + 128, 4 * (784 * 128 + 128), 2 * 784 * 128 + 128)
    assert rows["relu_1"] == ("relu_1", (64,), 0, 0, 64)
    assert rows["flatten_0"].output_shape == (784,)
    total = fnn.summary(fnn.models.mlp(10), (28, 28, 1)).total
    assert total.parameters == 109_386
    assert total.flops == sum(2 * i * o + o for i, o in ((784, 128), (128, 64), (64, 10))) + 128 + 64


def test_a_user_s_own_mark_is_no_layer():
    rows = fnn.summary(fnn.chain(lambda x: checkpoint_name(x, "mine")), (4,)).rows
    assert [row.layer for row in rows] == ["lambda_0"]


def test_summary_of_nested_and_single_layers():
    inner = fnn.chain(fnn.dense(3), jnp.sin)
    rows = fnn.summary(fnn.chain(inner, fnn.neuron()), (4,)).rows
    assert [row.layer for row in rows] == ["chain_0/dense_0", "chain_0/sin_0", "chain_0", "neuron_0"]
    assert rows[2].parameters == rows[0].parameters == 15
    assert fnn.summary(fnn.relu, (4,)).total == ("relu", (4,), 0, 0, 4)
    assert str(fnn.summary(fnn.relu, (4,))).splitlines()[-1].split() == ["relu", "(4,)", "0", "0", "4"]


def test_flops_of_a_convolution():
    """The products by which a CPU computes it are larger."""
    assert fnn.summary(fnn.conv(2, 3, bias=False), (6, 6, 1)).total.flops == 2 * 36 * 9 * 2
