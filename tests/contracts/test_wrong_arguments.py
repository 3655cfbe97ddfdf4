"""Every layer, loss, metric and activation with one wrong argument: our own clear error comes out, or a result.

Not one call may end in a message of JAX, NumPy, Optax or Python about code that the caller did not write.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.contracts.composed import large_are_slow
from tests.contracts.wrong_arguments import KEY, abstractly, faults_of, strict_promotion, using  # noqa: F401

import functional_nn as fnn
from functional_nn.gradients.cases import LAYERS, LOSSES, draw_inputs


def tokens():
    return np.arange(10).reshape(2, 5)


MAKERS = {
    "dense": (fnn.dense, {"out_size": 2}, (3,)),
    "neuron": (fnn.neuron, {"activation": fnn.relu}, (3,)),
    "flatten": (fnn.flatten, {}, (2, 3, 4)),
    "reshape": (fnn.reshape, {"shape": (3, 2)}, (6,)),
    "dropout": (fnn.dropout, {"rate": 0.5}, (3,)),
    "spatial_dropout": (fnn.spatial_dropout, {"rate": 0.5}, (3, 4)),
    "stochastic_depth": (fnn.stochastic_depth, {"rate": 0.5}, (3,)),
    "random_deformation": (fnn.random_deformation, {"most": 0.1}, (3, 4)),
    "random_shift": (fnn.random_shift, {"most": 1}, (3, 4)),
    "prelu": (fnn.prelu, {}, (3,)),
    "conv": (fnn.conv, {"out_size": 2, "window": 3}, (5, 6, 2)),
    "conv_transpose": (fnn.conv_transpose, {"out_size": 2, "window": 3}, (5, 6, 2)),
    "max_pool": (fnn.max_pool, {"window": 2}, (5, 6, 2)),
    "average_pool": (fnn.average_pool, {"window": 2}, (5, 6, 2)),
    "global_average_pool": (fnn.global_average_pool, {}, (5, 2)),
    "global_max_pool": (fnn.global_max_pool, {}, (5, 2)),
    "batch_norm": (fnn.batch_norm, {}, (3,)),
    "layer_norm": (fnn.layer_norm, {}, (4,)),
    "rms_norm": (fnn.rms_norm, {}, (4,)),
    "group_norm": (fnn.group_norm, {"groups": 2}, (3, 4)),
    "instance_norm": (fnn.instance_norm, {}, (3, 4)),
    "rnn": (fnn.rnn, {"hidden_size": 3}, (4, 2)),
    "lstm": (fnn.lstm, {"hidden_size": 3}, (4, 2)),
    "gru": (fnn.gru, {"hidden_size": 3}, (4, 2)),
    "attention": (fnn.attention, {"heads": 2, "key_value_heads": 1, "causal": True, "window": 2}, (4, 6)),
    "dot_product_attention": (
        fnn.dot_product_attention,
        {"causal": True, "window": 2},
        (),
        lambda: (jnp.ones((2, 3, 4, 2)), jnp.ones((2, 5, 2, 2)), jnp.ones((2, 5, 2, 2))),
    ),
    "embedding": (fnn.embedding, {"count": 10, "out_size": 3}, (5,), tokens),
    "unembedding": (fnn.unembedding, {"count": 10}, (3,)),
    "learned_positions": (fnn.learned_positions, {"max_time": 9}, (5, 3)),
    "sinusoidal_positions": (fnn.sinusoidal_positions, {}, (5, 4)),
    "chain": (lambda first, name: fnn.chain(first, fnn.relu, name=name), {"first": fnn.dense(2), "name": "c"}, (3,)),
    "parallel": (
        lambda first, combine="sum", name="parallel": fnn.parallel(first, fnn.dense(2), combine=combine, name=name),
        {"first": fnn.dense(2)},
        (3,),
    ),
    "residual": (
        lambda first, shortcut=fnn.relu, name="residual": fnn.residual(first, shortcut=shortcut, name=name),
        {"first": fnn.dense(3)},
        (3,),
    ),
    "compose": (fnn.compose, {"children": {"first": fnn.dense(3)}, "function": lambda net, x: net.first(x)}, (3,)),
    "repeat": (fnn.repeat, {"layer": fnn.dense(3), "count": 2}, (3,)),
    "remat": (fnn.remat, {"layer": fnn.dense(3)}, (3,)),
    "frozen": (fnn.frozen, {"layer": fnn.dense(3), "paths": "weight"}, (3,)),
    "shared": (fnn.shared, {"layer": fnn.chain(fnn.dense(3), fnn.dense(3)), "places": {"dense_1": "dense_0"}}, (3,)),
    "with_hand_vjp": (fnn.with_hand_vjp, {"layer": fnn.dense(3)}, (3,)),
    "bidirectional": (fnn.bidirectional, {"forward_layer": fnn.rnn(2), "backward_layer": fnn.rnn(3)}, (4, 2)),
    "reverse_time": (fnn.reverse_time, {"layer": fnn.rnn(2)}, (4, 2)),
    "residual_block": (fnn.models.residual_block, {"out_size": 2}, (4, 4, 2)),
    "transformer_block": (
        fnn.models.transformer_block,
        {"heads": 2, "key_value_heads": 1, "hidden_size": 5, "causal": True, "window": 2},
        (3, 4),
    ),
    "mlp": (fnn.models.mlp, {"out_size": 2, "hidden": (3,)}, (4,)),
    "cnn": (fnn.models.cnn, {"out_size": 2, "hidden": (3,)}, (4, 4, 1)),
    "resnet": (fnn.models.resnet, {"out_size": 2, "hidden": (3,)}, (4, 4, 1)),
    "transformer": (fnn.models.transformer, {"out_size": 2, "hidden": (4,), "heads": 2}, (4, 4, 1)),
    "language_model": (
        functools.wraps(fnn.models.language_model)(lambda **options: fnn.models.language_model(**options).layer),
        {"count": 10, "max_time": 6, "features": 4, "depth": 1, "heads": 2, "hidden_size": 3, "window": 2},
        (5,),
        tokens,
    ),
    "model": (fnn.model, {"name": "mlp", "out_size": 2}, (4,)),
}
"""A function that makes a layer, right arguments except for those that have a default, and a shape or an input."""


@pytest.mark.parametrize("name", MAKERS)
def test_makers_of_layers(name):
    maker, valid, *sample = MAKERS[name]
    assert faults_of(name, using(maker, *sample), valid) == []


def one_of_each(cases):
    """The first case of each layer."""
    return list({case.layer.name: case for case in reversed(cases)}.values())


def faults_of_passes(case):
    params, state, x = draw_inputs(case)
    layer = case.layer

    def call(key, in_shape, params, state, x, train, noise):
        layer.init(key, in_shape)
        layer.apply(params, state, x, train=train, key=noise)

    def back(y_bar):
        layer.vjp(params, state, x, train=False)[2](y_bar)

    valid = {"key": KEY, "in_shape": case.in_shape, "params": params, "state": state, "x": x, "train": True}
    y, _ = jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False), params, state, x)
    y = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), y)
    found = faults_of(case.name, abstractly(call), valid | {"noise": KEY})
    return found + faults_of(case.name, abstractly(back), {"y_bar": y})


@pytest.mark.parametrize("case", **large_are_slow(one_of_each(LAYERS)))
def test_passes_of_layers(case):
    assert faults_of_passes(case) == []


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_losses(case):
    def call(y, labels, weights):
        case.loss(y, labels, weights)
        case.loss.gradient(y, labels, weights)
        case.loss.per_example(y, labels)

    valid = {"y": case.y.astype(np.float32), "labels": case.labels, "weights": None}
    assert faults_of(case.name, abstractly(call), valid) == []


@pytest.mark.parametrize("name", fnn.metrics.METRICS)
def test_metrics(name):
    valid = {"y": np.ones((3, 4), np.float32), "labels": np.arange(3), "weights": None}
    assert faults_of(name, abstractly(fnn.metrics.METRICS[name]), valid) == []


@pytest.mark.parametrize("name", fnn.activations.ACTIVATIONS)
def test_activations(name):
    function = fnn.activations.ACTIVATIONS[name]
    assert faults_of(name, abstractly(lambda x: function(x)), {"x": np.ones((2, 3), np.float32)}) == []
