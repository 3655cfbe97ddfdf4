"""Cross-entropy with its options, hinges, likelihood, divergence and cosine. ``contracts`` has their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.losses.compiled import gradients, value_and_gradients

import functional_nn as fnn

CLASSES = 5


@pytest.mark.usefixtures("float64")
def test_class_weights_with_probabilities_divide_by_the_number_of_rows():
    random = np.random.default_rng(1)
    y, t, c = random.normal(size=(3, CLASSES)), random.dirichlet(np.ones(CLASSES), 3), random.uniform(size=CLASSES)
    loss = fnn.losses.cross_entropy_with(label_smoothing=0.2, class_weights=c, ignore_index=-1)
    log_p = y - np.log(np.exp(y).sum(axis=1, keepdims=True))
    expected = -(c * (0.8 * t + 0.2 / CLASSES) * log_p).sum() / 3
    np.testing.assert_allclose(jax.jit(loss)(y, t), expected, rtol=1e-13)


@pytest.mark.parametrize(("label", "options"), [(2, {"class_weights": [0.0, 1.0]}), (-1, {"label_smoothing": 0.1})])
def test_a_bad_label_is_nan_in_its_own_row_only(label, options):
    loss = fnn.losses.cross_entropy_with(**options)
    y, labels = jnp.array([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]]), jnp.array([0, label, 1])
    value, *found = value_and_gradients(loss, y, labels)
    assert np.isnan(value)
    for gradient in found:
        assert np.isnan(gradient).all(axis=1).tolist() == [False, True, False]


def test_class_weights_that_do_not_fit():
    with pytest.raises(fnn.InputError, match=r"class_weights: expected one weight per class, shape \(classes,\)"):
        fnn.losses.cross_entropy_with(class_weights=[[1.0, 2.0]])
    for bad in ([1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(fnn.InputError, match="class_weights: expected weights not below 0"):
            fnn.losses.cross_entropy_with(class_weights=bad)
    with pytest.raises(fnn.InputError, match=r"class_weights: expected one weight per class, shape \(3,\)"):
        fnn.losses.cross_entropy_with(class_weights=[1.0, 2.0])(jnp.zeros((1, 3)), jnp.array([0]))


def test_class_weights_may_be_traced():
    y, labels = jnp.array([[1.0, 2.0], [0.0, 0.5]]), jnp.array([0, 1])
    loss = jax.jit(lambda c: fnn.losses.cross_entropy_with(class_weights=c)(y, labels))
    c = jnp.array([0.3, 2.0])
    fixed = jax.jit(fnn.losses.cross_entropy_with(class_weights=c))
    np.testing.assert_allclose(loss(c), fixed(y, labels), rtol=1e-6)
    assert np.isnan(loss(-c))


def test_hinge_by_hand_and_at_its_kink():
    y, t = np.float32([[2.0, 0.5], [-0.25, 1.0]]), np.array([[1, 1], [1, 1]])
    per_example = jax.jit(fnn.hinge.per_example)
    np.testing.assert_allclose(per_example(y, t), [0.25, 0.625])
    np.testing.assert_allclose(per_example(-y, 0 * t), [0.25, 0.625])
    for gradient in gradients(fnn.hinge, y, t):
        np.testing.assert_allclose(gradient, [[0, -0.25], [-0.25, 0]])


def test_multiclass_hinge_against_a_loop_and_at_its_kink():
    y, labels = np.random.default_rng(2).normal(size=(7, CLASSES)), np.array([0, 1, 2, 3, 4, 0, 1])
    terms = [max(0, 1 - y[i, labels[i]] + y[i, k]) for i in range(7) for k in range(CLASSES) if k != labels[i]]
    value = jax.jit(fnn.multiclass_hinge)(y.astype(np.float32), labels)
    np.testing.assert_allclose(value, sum(terms) / 7 / 5, rtol=1e-5)
    for gradient in gradients(fnn.multiclass_hinge, np.float32([[2.0, 1.0, 1.5]]), np.array([0])):
        np.testing.assert_allclose(gradient, [[-1 / 3, 0, 1 / 3]], rtol=1e-6)


def test_likelihood_of_log_softmax_is_cross_entropy():
    y, labels = np.random.default_rng(0).normal(size=(7, CLASSES)).astype(np.float32), np.arange(7) % CLASSES

    @jax.jit
    def through(y, labels):
        log_p = fnn.log_softmax(y)
        y_bar = fnn.log_softmax.pullback(y, fnn.negative_log_likelihood.gradient(log_p, labels))
        return fnn.negative_log_likelihood(log_p, labels), y_bar

    expected, expected_bar, _ = value_and_gradients(fnn.cross_entropy, y, labels)
    value, y_bar = through(y, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(y_bar, expected_bar, atol=1e-6)


def test_impossible_classes_in_likelihood_and_divergence():
    """0 log 0 = 0; what the targets hold possible and y impossible is infinitely far."""
    p = np.float32([[0.25, 0.75, 0.0]])
    y = np.log(p, where=p > 0, out=np.full_like(p, -np.inf))
    for loss, possible, impossible in (
        (fnn.negative_log_likelihood, np.array([1]), np.array([2])),
        (fnn.kl_divergence, np.float32([[0, 1, 0]]), np.float32([[0.5, 0, 0.5]])),
    ):
        value, *found = value_and_gradients(loss, y, possible)
        np.testing.assert_allclose(value, -np.log(0.75), rtol=1e-6)
        for gradient in found:
            np.testing.assert_array_equal(gradient, [[0, -1, 0]])
        assert value_and_gradients(loss, y, impossible)[0] == jnp.inf
    np.testing.assert_allclose(value_and_gradients(fnn.kl_divergence, y, p)[0], 0, atol=1e-6)


def test_cosine_distance_by_hand_and_of_any_length():
    y, t = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]), np.array([[6.0, 8.0], [0.0, 1.0], [0.0, -5.0]])
    per_example = jax.jit(fnn.cosine_distance.per_example)
    for scale in (1, 1e-30, 1e30):
        np.testing.assert_allclose(per_example(np.float32(scale * y), t), [0, 1, 2], atol=1e-6)
    with pytest.raises(fnn.InputError, match="y: expected vectors"):
        fnn.cosine_distance(jnp.ones(3), jnp.ones(3))


def test_the_direction_of_nothing():
    y, t = jnp.array([[0.0, 0.0], [1.0, 2.0]]), jnp.array([[1.0, 2.0], [0.0, 0.0]])
    value, *found = value_and_gradients(fnn.cosine_distance, y, t)
    assert value == 1
    for gradient in found:
        np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


@pytest.mark.parametrize("loss", fnn.losses.LOSSES.values(), ids=fnn.losses.LOSSES)
def test_nan_in_the_output_is_nan_in_value_and_gradient(loss):
    """None of the comparisons in a formula turns NaN into a plausible number."""
    y = jnp.array([[jnp.nan, 0.5], [0.5, 0.5]])
    of_classes = loss in (fnn.cross_entropy, fnn.multiclass_hinge, fnn.negative_log_likelihood)
    labels = jnp.array([0, 1]) if of_classes else jnp.array([[1.0, 0.0], [0.0, 1.0]])
    value, gradient, _ = value_and_gradients(loss, y, labels)
    assert np.isnan(value)
    assert np.isnan(gradient[0, 0])
