"""What stands on padding never matters: neither to outputs nor to gradients, whatever layers a sequence passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted

import functional_nn as fnn

KEY = jax.random.key(0)
MASK = jnp.array([[True, True, True, False], [True, False, False, False]])
VALUES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), jnp.float32)


def test_windows_do_not_pool_over_padding():
    with pytest.raises(fnn.InputError, match="pool_0: x: expected images or sequences without a mask"):
        fnn.chain(fnn.average_pool(2)).apply({}, {}, fnn.Masked(VALUES, MASK), train=False)


@pytest.mark.parametrize("mask", [MASK.astype(float), MASK[:, :1]], ids=["float", "short"])
def test_a_layer_without_masks_checks_the_mask_too(mask):
    with pytest.raises(fnn.InputError, match=r"relu_0: mask: expected booleans of shape \(2, 4\)"):
        fnn.chain(fnn.relu).apply({}, {}, fnn.Masked(VALUES, mask), train=False)


def test_padding_tokens_need_not_be_tokens():
    net = jitted(fnn.chain(fnn.embedding(5, 3), fnn.global_average_pool(), fnn.dense(2)))
    params, state = net.init(KEY, (4,))
    tokens = jnp.where(MASK, 2, -1)
    y, _ = net.apply(params, state, fnn.Masked(tokens, MASK), train=False)
    expected, _ = net.apply(params, state, fnn.Masked(jnp.full_like(tokens, 2), MASK), train=False)
    np.testing.assert_array_equal(y, expected)
    given = fnn.training.predict_probabilities(
        net, params, state, fnn.Masked(np.asarray(tokens), np.asarray(MASK)), batch_size=1
    )
    np.testing.assert_allclose(given, jax.nn.softmax(expected), rtol=1e-6)


def test_a_frozen_embedding_computes_in_the_type_of_the_others():
    net = fnn.frozen(fnn.chain(fnn.embedding(5, 4), fnn.lstm(3), fnn.dense(2)), "embedding_0/*")

    def output():
        params, state = net.init(KEY, (4,))
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        return net.apply(low, state, jnp.zeros((2, 4), jnp.int32), train=False)[0]

    assert jax.eval_shape(output).dtype == jnp.bfloat16


def test_several_inputs_where_one_is_expected():
    pair = jnp.ones((2, 4, 3)), jnp.ones((2, 5, 3))
    net = fnn.chain(fnn.residual(fnn.attention(1)))
    with pytest.raises(fnn.InputError, match="residual_0: layers: expected layers with one output each"):
        jax.eval_shape(lambda: net.apply(*net.init(KEY, (4, 3)), pair, train=False))
    with pytest.raises(fnn.InputError, match="x: expected one sequence"):
        fnn.bidirectional(fnn.gru(3, initial_state="given")).init(KEY, ((4, 3), (3,)))
