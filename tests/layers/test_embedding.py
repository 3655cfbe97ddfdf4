"""Embeddings, their tied output layer, and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted

import functional_nn as fnn

KEY = jax.random.key(0)


def test_a_token_that_stands_in_several_places_adds_up():
    """The lookup is a product with one-hot rows, and so is its gradient."""
    layer, x = jitted(fnn.embedding(4, 3)), jnp.array([[0, 2, 2], [2, 3, 0]])
    params, _ = layer.init(KEY, (3,))
    y, _, pullback = layer.vjp(params, {}, x, train=True)
    one_hot = np.eye(4)[np.asarray(x)]
    np.testing.assert_allclose(y, one_hot @ np.asarray(params["weight"]), rtol=1e-6)
    y_bar = jnp.arange(18.0).reshape(2, 3, 3)
    params_bar, x_bar = pullback(y_bar)
    np.testing.assert_array_equal(params_bar["weight"], np.tensordot(one_hot, y_bar, axes=((0, 1), (0, 1))))
    assert x_bar is None


@pytest.mark.parametrize("bad", [-1, 4])
def test_a_token_out_of_range(bad):
    layer, x = fnn.chain(fnn.embedding(4, 3)), jnp.array([[0, 2, 2], [2, bad, 0]])
    params, state = layer.init(KEY, (3,))
    words = rf"embedding_0: x: expected tokens from 0 to 3, got {bad} at index \(1, 1\)"
    with pytest.raises(fnn.InputError, match=words):
        layer.apply(params, state, x, train=False)


def test_under_jit_a_bad_token_is_nan_and_gives_no_gradient():
    layer, x = fnn.embedding(4, 3), jnp.array([[0, 2, 2, 9], [2, -1, 0, 4]])
    params, _ = layer.init(KEY, (4,))
    good = (x >= 0) & (x < 4)

    @jax.jit
    def both(params, x):
        apply = lambda params: layer.vjp(params, {}, x, train=True)[::2]  # noqa: E731
        y, automatic, pullback = jax.vjp(apply, params, has_aux=True)
        return y, automatic(jnp.ones_like(y))[0], pullback(jnp.ones_like(y))[0]

    y, automatic, ours = both(params, x)
    np.testing.assert_array_equal(jnp.isfinite(y), jnp.broadcast_to(good[..., None], y.shape))
    for params_bar in (automatic, ours):
        np.testing.assert_array_equal(params_bar["weight"][:, 0], [2, 0, 3, 0])


def test_bytes_and_counts_that_they_cannot_hold():
    """255 is a token of 256, and no -1; 200 is none of 200, whatever the type wraps to."""
    tokens = jnp.array([0, 255, 200], jnp.uint8)
    for count, good in ((256, [True, True, True]), (200, [True, False, False])):
        layer = fnn.embedding(count, 1)
        params, _ = layer.init(KEY, ())
        y = jax.jit(lambda params, x, layer=layer: layer.apply(params, {}, x, train=True)[0])(params, tokens)
        np.testing.assert_array_equal(np.isfinite(y[:, 0]), good)


def test_a_large_count_takes_no_memory_of_its_product_with_the_tokens():
    """1,000 one-hot rows of 100,000 tokens would be 400 MB; the weight is 0.8 MB."""
    layer = fnn.embedding(100_000, 2)
    params, _ = jax.eval_shape(lambda key: layer.init(key, (1000,)), KEY)
    tokens, y_bar = jax.ShapeDtypeStruct((1, 1000), jnp.int32), jax.ShapeDtypeStruct((1, 1000, 2), jnp.float32)

    @jax.jit
    def gradient(params, x, y_bar):
        return layer.vjp(params, {}, x, train=True)[2](y_bar)

    memory = gradient.lower(params, tokens, y_bar).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 10e6


def test_vectors_have_a_length_of_about_one_and_so_have_tied_logits():
    for layer, in_shape in ((fnn.embedding(1000, 50), (3,)), (fnn.unembedding(1000), (3, 50))):
        params, _ = layer.init(KEY, in_shape)
        assert params["weight"].shape == (1000, 50)
        np.testing.assert_allclose(params["weight"].std(), 50**-0.5, rtol=0.02)


@pytest.mark.usefixtures("float64")
def test_tied_to_its_output_layer():
    net = fnn.chain(fnn.embedding(5, 3), fnn.tanh, fnn.unembedding(5))
    tied = fnn.shared(net, {"unembedding_0": "embedding_0"})
    weight = np.random.default_rng(0).normal(size=(5, 3))
    x = np.array([[0, 4, 1, 4], [2, 2, 0, 1]])
    y, _ = jitted(tied).apply({"embedding_0": {"weight": jnp.asarray(weight)}}, {}, jnp.asarray(x), train=True)
    np.testing.assert_allclose(y, np.tanh(weight[x]) @ weight.T, rtol=1e-12)


def test_tokens_positions_and_attention_of_padded_sequences():
    """``init`` finds that the network takes integers, and the mask goes all the way."""
    net = jitted(fnn.chain(fnn.embedding(7, 4), fnn.learned_positions(6), fnn.attention(2), fnn.unembedding(7)))
    params, state = net.init(KEY, (5,))
    assert params["unembedding_0"]["weight"].shape == (7, 4)
    x = fnn.Masked(jnp.array([[1, 2, 3, 0, 0]]), jnp.array([[True, True, True, False, False]]))
    y, _, pullback = net.vjp(params, state, x, train=True)
    alone, _ = net.apply(params, state, x.values[:, :3], train=True)
    np.testing.assert_allclose(y.values[:, :3], alone, rtol=1e-4, atol=1e-6)
    params_bar, x_bar = pullback(fnn.Masked(jnp.ones_like(y.values), None))
    assert jax.tree.structure(params_bar) == jax.tree.structure(params)
    assert x_bar == fnn.Masked(None, None)


def test_sinusoidal_positions():
    y, _ = fnn.sinusoidal_positions().apply({}, {}, jnp.ones((2, 200, 6)), train=False)
    for t, feature in np.ndindex(200, 6):
        angle = t * 10_000 ** (-(feature // 2) / 3)
        wave = np.cos(angle) if feature % 2 else np.sin(angle)
        np.testing.assert_allclose(np.asarray(y)[:, t, feature], 1 + wave, rtol=1e-6, atol=1e-7)


def test_learned_positions_of_a_shorter_sequence_leave_the_rest_alone():
    layer = fnn.learned_positions(5)
    params, _ = layer.init(KEY, (5, 2))
    y, _, pullback = layer.vjp(params, {}, jnp.ones((3, 4, 2)), train=True)
    np.testing.assert_allclose(y[1], 1 + params["weight"][:4], rtol=1e-6)
    np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0]["weight"][:, 0], [3, 3, 3, 3, 0])
