"""Losses of masked sequences: the mean over real steps, whatever the padding holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

LENGTHS = np.array([3, 1, 2])
MASK = np.arange(3) < LENGTHS[:, None]
INTEGERS = (fnn.cross_entropy, fnn.multiclass_hinge, fnn.negative_log_likelihood)


def sequences(loss, seed=0):
    """Outputs (batch, time, 5) that every loss takes, and labels."""
    random = np.random.default_rng(seed)
    y = np.log(random.dirichlet(np.ones(5), (3, 3)))
    if loss is fnn.losses.binary_cross_entropy_from_probabilities:
        y = np.exp(y)
    if loss in INTEGERS:
        return y, random.integers(0, 5, (3, 3))
    if loss is fnn.kl_divergence:
        return y, random.dirichlet(np.ones(5), (3, 3))
    return y, random.integers(0, 2, (3, 3, 5)).astype(float)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "loss", [fnn.cross_entropy, fnn.binary_cross_entropy, fnn.kl_divergence, fnn.cosine_distance], ids=repr
)
def test_the_mean_is_over_real_steps(loss):
    """Value and gradient are those of the real steps alone, each an example; padding has NaN and wrong labels.

    One loss for each form of labels and of values.
    """
    y, labels = sequences(loss)
    alone, alone_labels = y[MASK], labels[MASK]
    y[~MASK], labels[~MASK] = np.nan, -7
    weights = np.random.default_rng(1).uniform(size=(3, 3))
    alone_weights = weights[MASK]
    masked = fnn.Masked(jnp.asarray(y), jnp.asarray(MASK))

    def of(y, labels, weights):
        return loss(y, labels, weights), loss.gradient(y, labels, weights), loss.per_example(y, labels)

    @jax.jit
    def both(masked, alone):
        automatic = jax.grad(lambda y: loss(fnn.Masked(y, MASK), labels, weights))(masked[0].values)
        return of(*masked), of(*alone), automatic

    (value, y_bar, each), (alone_value, alone_bar, alone_each), automatic = both(
        (masked, labels, weights), (alone, alone_labels, alone_weights)
    )
    np.testing.assert_allclose(value, alone_value, rtol=1e-14)
    assert y_bar.mask is None
    expected = np.zeros(y.shape)
    expected[MASK] = alone_bar
    np.testing.assert_allclose(y_bar.values, expected, atol=1e-14)
    np.testing.assert_allclose(automatic, expected, atol=1e-12)
    assert each.shape == (3, 3)
    np.testing.assert_allclose(each[MASK], alone_each, rtol=1e-13)
    assert (each[~MASK] == 0).all()


def test_weights_and_labels_at_padding_may_be_anything():
    """Also outside ``jit``, where they are checked."""
    y, labels = sequences(fnn.cross_entropy)
    masked, weights = fnn.Masked(y.astype(np.float32), MASK), np.where(MASK, 2.0, [np.nan, -1.0, np.nan])
    expected = jax.jit(fnn.cross_entropy)(masked, labels, np.where(MASK, 2.0, 0))
    np.testing.assert_allclose(fnn.cross_entropy(masked, np.where(MASK, labels, 99), weights), expected, rtol=1e-6)
    for bad in (np.nan, -1.0):
        weights[0, 0] = bad
        with pytest.raises(fnn.InputError, match="weights not below 0"):
            fnn.cross_entropy(masked, labels, weights)


def test_ignored_labels_and_class_weights_among_real_steps():
    loss = fnn.losses.cross_entropy_with(ignore_index=-1, class_weights=[0.2, 1.0, 3.0, 0.5, 0.7], label_smoothing=0.1)
    y, labels = sequences(fnn.cross_entropy)
    labels[0, 1] = -1
    expected = jax.jit(loss)(y[MASK].astype(np.float32), labels[MASK])
    labels[~MASK] = 99
    masked = fnn.Masked(y.astype(np.float32), MASK)
    np.testing.assert_allclose(jax.jit(loss)(masked, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", fnn.losses.LOSSES.values(), ids=fnn.losses.LOSSES)
def test_fully_masked_gives_zero(loss):
    values, mask = np.full((3, 3, 5), np.nan, np.float32), np.zeros((3, 3), bool)
    labels = sequences(loss)[1].astype(np.int32 if loss in INTEGERS else np.float32)

    @jax.jit
    def found(values):
        value, bar = jax.value_and_grad(lambda values: loss(fnn.Masked(values, mask), labels))(values)
        return value, bar, loss.gradient(fnn.Masked(values, mask), labels).values

    assert all((number == 0).all() for number in found(values))
