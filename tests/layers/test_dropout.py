"""Noise: what is dropped together, with which mean, and by which rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted

import functional_nn as fnn

MAKERS = [fnn.dropout, fnn.spatial_dropout, fnn.stochastic_depth]
KEY = jax.random.key(0)


@pytest.mark.parametrize("rate", [-0.1, 1.0, np.nan])
@pytest.mark.parametrize("maker", MAKERS)
def test_rate_out_of_range(maker, rate):
    with pytest.raises(fnn.InputError, match=r"rate: expected a number in \[0, 1\)"):
        maker(rate)


@pytest.mark.parametrize(("maker", "rate"), [*((maker, 0.9) for maker in MAKERS), (fnn.dropout, 0.0)])
def test_the_mean_is_kept_and_evaluation_is_the_identity(maker, rate):
    layer, x = maker(rate), jnp.ones((100_000, 1, 1))
    y, _ = jitted(layer).apply({}, {}, x, train=True, key=KEY)
    assert abs(float(y.mean()) - 1) < 0.02
    assert abs(float((y == 0).mean()) - rate) < 0.01
    assert layer.apply({}, {}, x, train=False)[0] is x


@pytest.mark.parametrize("maker", MAKERS)
def test_a_traced_rate_leaves_its_program_with_the_pullback(maker):
    """One program serves all rates, and a vmapped sweep gets each member's pullback out of it."""
    x, rates = jnp.ones((1000, 2, 5)), jnp.array([0.1, 0.5])

    @jax.jit
    @jax.vmap
    def forward(rate):
        y, _, pullback = maker(rate).vjp({}, {}, x, train=True, key=KEY)
        return y, pullback

    y, pullback = forward(rates)
    np.testing.assert_allclose(y.mean(axis=(1, 2, 3)), 1, atol=0.15)
    np.testing.assert_allclose(jnp.unique(y[1]), [0.0, 2.0])
    _, x_bar = jax.jit(jax.vmap(lambda pullback: pullback(x)))(pullback)
    np.testing.assert_allclose(x_bar, y)


def test_what_is_dropped_together():
    x = jnp.ones((31, 2, 7))
    drawn = (jitted(maker(0.5)).apply({}, {}, x, train=True, key=KEY)[0] for maker in MAKERS)
    values, channels, examples = map(np.asarray, drawn)
    assert 0.4 < float((values == 0).mean()) < 0.6
    np.testing.assert_array_equal(channels, np.broadcast_to(channels[:, :1], x.shape))
    assert (channels.min(axis=2) < channels.max(axis=2)).any()
    np.testing.assert_array_equal(examples, np.broadcast_to(examples[:, :1, :1], x.shape))
    assert 0.2 < float((examples[:, 0, 0] == 0).mean()) < 0.8


def test_spatial_dropout_needs_positions():
    with pytest.raises(fnn.InputError, match="Use dropout for vectors"):
        fnn.spatial_dropout(0.5).apply({}, {}, jnp.ones((3, 4)), train=True, key=KEY)


def test_stochastic_depth_in_a_residual_leaves_dropped_examples_as_they_are():
    block = jitted(fnn.residual(fnn.chain(lambda x: 3 * x, fnn.stochastic_depth(0.25))))
    y, _ = block.apply({}, {}, jnp.ones((100, 2)), train=True, key=KEY)
    assert set(np.asarray(y).ravel().tolist()) == {1.0, 5.0}
    np.testing.assert_array_equal(block.apply({}, {}, jnp.ones((3, 2)), train=False)[0], 4)
