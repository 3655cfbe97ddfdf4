"""Losses: values by independent formulas, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.losses.compiled import gradients, value_and_gradients

import functional_nn as fnn

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]], np.float32)


def test_values_by_hand():
    y, t = np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]])
    for loss, expected in (
        (fnn.mean_squared_error, (1 + 4) / 2),
        (fnn.mean_absolute_error, (1 + 2) / 2),
        (fnn.huber, (0.5 + 1.5) / 2),
        (fnn.binary_cross_entropy, (np.log(1 + np.e) + np.log(1 + np.exp(-3))) / 2),
    ):
        np.testing.assert_allclose(jax.jit(loss)(y, t), expected, rtol=1e-6)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    found, *_ = value_and_gradients(fnn.cross_entropy, LOGITS, np.array([0, 2]))
    np.testing.assert_allclose(found, -(np.log(p[0, 0]) + np.log(p[1, 2])) / 2, rtol=1e-5)


@pytest.mark.parametrize("loss", fnn.losses.LOSSES.values(), ids=fnn.losses.LOSSES)
def test_no_loss_broadcasts(loss):
    """(n,) against (n, 1), which NumPy would make (n, n)."""
    for y, labels in ((np.ones((4, 1)), np.ones(4)), (np.ones(4), np.ones((4, 1))), (np.ones((4, 2)), np.ones((4, 1)))):
        with pytest.raises(fnn.InputError, match="labels: expected"):
            loss(y.astype(np.float32), labels.astype(np.float32))
        with pytest.raises(fnn.InputError, match="labels: expected"):
            jax.jit(loss.gradient)(y.astype(np.float32), labels.astype(np.float32))


@pytest.mark.parametrize("weights", [np.ones((2, 1)), np.ones(())])
def test_weights_do_not_broadcast(weights):
    with pytest.raises(fnn.InputError, match=r"weights: expected one weight per value, shape \(2,\)"):
        fnn.cross_entropy(LOGITS, [0, 1], weights)


@pytest.mark.parametrize("loss", fnn.losses.LOSSES.values(), ids=fnn.losses.LOSSES)
def test_an_empty_batch_is_an_error(loss):
    y = np.zeros((0, 3), np.float32)
    with pytest.raises(fnn.InputError, match="y: expected at least one example"):
        loss(y, np.zeros(0, int) if loss is fnn.cross_entropy else y)


def test_nothing_that_counts_gives_zero():
    """Also where smoothing alone would leave something to divide by 0."""
    no_class_counts = fnn.losses.cross_entropy_with(class_weights=[1.0, 0.0, 0.0], label_smoothing=0.1)
    for loss, *given in (
        (fnn.cross_entropy, LOGITS, np.array([0, 1]), np.zeros(2)),
        (fnn.mean_squared_error, LOGITS, LOGITS + 1, np.zeros(2)),
        (fnn.losses.cross_entropy_with(ignore_index=-1), LOGITS, np.array([-1, -1])),
        (no_class_counts, LOGITS, np.array([1, 2])),
    ):
        assert all((found == 0).all() for found in value_and_gradients(loss, *given))


FROM_PROBABILITIES = fnn.losses.binary_cross_entropy_from_probabilities
NO_CLASS = "labels: expected labels from 0 to 2.*got {} at"
NO_ROW, NO_LOGS = "rows of probabilities that sum to 1.*at", "rows of log-probabilities.*log_softmax"
NO_PROBABILITY, NO_LABEL = r"y: expected probabilities in \[0, 1\]", r"labels: expected values in \[0, 1\]"


@pytest.mark.parametrize(
    ("loss", "y", "labels", "words"),
    [
        *((fnn.cross_entropy, LOGITS, [0, label], NO_CLASS.format(label)) for label in (3, -1, 2**31 - 1)),
        (fnn.cross_entropy, LOGITS, [[0.2, 0.3, 0.5], [0.5, 0.2, 0.2]], NO_ROW),
        (fnn.cross_entropy, LOGITS, [[0.2, 0.3, 0.5], [1.2, -0.1, -0.1]], NO_ROW),
        *((FROM_PROBABILITIES, [[0.5], [p]], [[1.0], [1.0]], NO_PROBABILITY) for p in (-0.1, 1.1, np.nan)),
        (FROM_PROBABILITIES, [[0.5], [0.5]], [[1], [2]], NO_LABEL),
        (fnn.binary_cross_entropy, [[0.5], [0.5]], [[1], [2]], NO_LABEL),
        (fnn.hinge, [[0.5], [0.5]], [[1], [-1]], r"labels: expected 0 or 1.*use \(labels \+ 1\) / 2"),
        *((fnn.negative_log_likelihood, [[0.0, -99.0], row], [0, 1], NO_LOGS) for row in ([2.0, -1.0], [0.3, 0.7])),
        *((fnn.kl_divergence, [[0.0, -99.0], row], np.eye(2), NO_LOGS) for row in ([2.0, -1.0], [0.3, 0.7])),
    ],
)
def test_what_is_refused_on_the_host_is_nan_under_jit(loss, y, labels, words):
    y, labels = np.float32(y), np.asarray(labels)
    with pytest.raises(fnn.InputError, match=words):
        loss(y, labels)
    value, *found = value_and_gradients(loss, y, labels)
    assert np.isnan(value)
    for gradient in found:
        assert np.isnan(gradient).all(axis=1).tolist() == [False, True]


def test_minus_one_only_where_it_is_ignored():
    for class_weights in (None, [1.0, 2.0, 3.0]):
        loss = fnn.losses.cross_entropy_with(ignore_index=-1, class_weights=class_weights)
        assert np.isclose(jax.jit(loss)(LOGITS, [0, -1]), jax.jit(fnn.cross_entropy)(LOGITS[:1], [0]))
    with pytest.raises(fnn.InputError, match="labels from 0 to 2 or -1"):
        loss(LOGITS, [0, -2])


def test_an_ignored_row_may_hold_anything():
    loss = fnn.losses.cross_entropy_with(ignore_index=-1, label_smoothing=0.1)
    y = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    value, by_hand, automatic = value_and_gradients(loss, y, jnp.array([1, -1]))
    assert np.isfinite(value)
    for gradient in (by_hand, automatic):
        assert np.isfinite(gradient[0]).all()
        assert (gradient[1] == 0).all()


def test_labels_as_bytes():
    """256 and 300 classes do not fit into a byte, nor does an ignored -1."""
    for classes in (256, 300):
        y = np.random.default_rng(0).normal(size=(2, classes)).astype(np.float32)
        expected, of_bytes = (jax.jit(fnn.cross_entropy)(y, np.array([1, 2], dtype)) for dtype in (np.int32, np.uint8))
        assert of_bytes == expected
    ignoring = jax.jit(fnn.losses.cross_entropy_with(ignore_index=-1))
    assert np.isnan(ignoring(jnp.zeros((2, 3)), np.array([0, 255], np.uint8)))


@pytest.mark.parametrize("scale", [1e5, 1e-9])
def test_weights_that_float16_cannot_hold(scale):
    loss, y, labels = fnn.mean_squared_error, jnp.array([[1.0], [2.0]], jnp.float16), jnp.zeros((2, 1), jnp.float16)
    weights = scale * jnp.array([1.0, 2.0])
    value, *found = value_and_gradients(loss, y, labels, weights)
    np.testing.assert_allclose(value, (1 + 2 * 4) / 3, rtol=1e-6)
    for gradient in found:
        assert gradient.dtype == jnp.float16
        np.testing.assert_allclose(gradient, [[2 / 3], [8 / 3]], rtol=1e-3)


def test_a_traced_delta():
    y = jnp.asarray(LOGITS)
    traced = jax.jit(lambda delta: fnn.losses.huber_with(delta)(y, y + 1))
    np.testing.assert_allclose(traced(0.3), jax.jit(fnn.losses.huber_with(0.3))(y, y + 1), rtol=1e-6)


def test_an_impossible_class_without_weight():
    """A logit of minus infinity adds nothing where the label gives it no weight."""
    y = jnp.array([[0.0, 1.0, -jnp.inf]])
    for labels in (jnp.array([1]), jnp.array([[0.25, 0.75, 0.0]])):
        assert all(np.isfinite(found).all() for found in value_and_gradients(fnn.cross_entropy, y, labels))


def test_an_infinite_logit_that_is_right_costs_nothing():
    """A logit of minus infinity with label 0, and of infinity with label 1."""
    y, t = jnp.array([[-jnp.inf], [jnp.inf]]), jnp.array([[0.0], [1.0]])
    assert all((found == 0).all() for found in value_and_gradients(fnn.binary_cross_entropy, y, t))
    value, gradient, _ = value_and_gradients(fnn.binary_cross_entropy, y, 1 - t)
    assert value == jnp.inf
    np.testing.assert_array_equal(gradient, [[-0.5], [0.5]])


def test_an_infinite_value_without_weight_has_no_gradient_either():
    y, weights = jnp.array([[jnp.nan, -jnp.inf], [0.0, 1.0]]), jnp.array([0.0, 1.0])
    for loss in (fnn.cross_entropy, fnn.multiclass_hinge):
        _, alone = gradients(loss, y[1:], jnp.array([1]))
        for gradient in gradients(loss, y, jnp.array([0, 1]), weights):
            np.testing.assert_allclose(gradient, [[0.0, 0.0], alone[0]], rtol=1e-6)


def test_binary_cross_entropy_is_finite_from_logits_that_mean_0_or_1():
    y = np.array([[1e4], [-1e4], [1e4], [-1e4]], np.float32)
    t = np.array([[1.0], [0.0], [0.0], [1.0]], np.float32)
    np.testing.assert_allclose(jax.jit(fnn.binary_cross_entropy.per_example)(y, t), [0, 0, 1e4, 1e4])
    by_hand, automatic = gradients(fnn.binary_cross_entropy, y, t)
    np.testing.assert_allclose(np.asarray(by_hand) * 4, [[0], [0], [1], [-1]])
    assert np.isfinite(automatic).all()


def test_probabilities_0_and_1_that_are_right_cost_nothing():
    p = jnp.array([[0.0], [1.0]])
    value, *found = value_and_gradients(fnn.losses.binary_cross_entropy_from_probabilities, p, p)
    assert value == 0
    for gradient in found:
        np.testing.assert_array_equal(gradient, [[0.5], [-0.5]])


def test_negative_weights_integers_and_wrong_settings_are_refused():
    with pytest.raises(fnn.InputError, match="weights not below 0"):
        fnn.cross_entropy(LOGITS, [0, 1], [1.0, -1.0])
    assert np.isnan(value_and_gradients(fnn.cross_entropy, LOGITS, np.array([0, 1]), np.array([-1.0, 1.0]))[0])
    with pytest.raises(fnn.InputError, match="y: expected floating-point outputs"):
        fnn.mean_squared_error(np.ones((2, 1), int), np.ones((2, 1), int))
    for smoothing in (-0.1, 1.0, np.nan):
        with pytest.raises(fnn.InputError, match="label_smoothing"):
            fnn.losses.cross_entropy_with(label_smoothing=smoothing)
    for delta in (0, -1, np.nan):
        with pytest.raises(fnn.InputError, match="delta"):
            fnn.losses.huber_with(delta)


def test_huber_of_an_infinite_delta_is_half_the_squared_error():
    loss, y, labels = fnn.losses.huber_with(np.inf), jnp.array([[3.0, -1.0]]), jnp.zeros((1, 2))
    value, *found = value_and_gradients(loss, y, labels)
    assert value == 2.5
    for gradient in found:
        np.testing.assert_array_equal(gradient, [[1.5, -0.5]])


@pytest.mark.parametrize("number", [np.float64, jnp.float32], ids=["numpy", "jax"])
def test_settings_that_are_arrays_keep_the_type_of_the_outputs(number):
    y, targets, classes = jnp.asarray(LOGITS, jnp.float16), jnp.zeros(LOGITS.shape, jnp.float16), jnp.array([0, 1])
    smoothed = fnn.losses.cross_entropy_with(label_smoothing=number(0.1))
    for loss, labels in ((smoothed, classes), (fnn.losses.huber_with(number(0.1)), targets)):
        for call in (loss.gradient, loss.per_example):
            assert jax.eval_shape(call, y, labels).dtype == jnp.float16


def test_more_classes_than_float16_counts():
    """70000 is infinity in float16."""
    loss, labels, y = fnn.cross_entropy, jnp.array([0]), jnp.ones((1, 70_000), jnp.float16)
    value, *found = value_and_gradients(loss, y, labels)
    np.testing.assert_allclose(value, np.log(70_000), rtol=1e-3)
    for y_bar in found:
        assert y_bar.dtype == y.dtype
        np.testing.assert_allclose(np.float32(y_bar)[0, 1:], 1 / 70_000, rtol=1e-2, atol=1e-7)


def test_the_gradient_of_a_penalty_rounds_the_rate_only_at_the_end():
    params = {"dense": {"weight": jnp.array([60000.0, 1.0], jnp.float16)}}
    for rate in (2e-8, jnp.float32(0.1)):
        penalty = fnn.l2(rate)
        found = penalty.gradient(params)["dense"]["weight"]
        by_jax = jax.grad(penalty)(params)["dense"]["weight"]
        assert found.dtype == by_jax.dtype == jnp.float16
        np.testing.assert_array_equal(found, by_jax)


def test_a_label_without_weight_may_be_anything():
    y, labels, weights = jnp.zeros((2, 3)), np.array([5, 1]), np.array([0.0, 1.0])
    right, gradient, _ = value_and_gradients(fnn.cross_entropy, y, labels, weights)
    np.testing.assert_allclose(fnn.cross_entropy(y, labels, weights), right)
    np.testing.assert_array_equal(gradient[0], np.zeros(3))
    with pytest.raises(fnn.InputError, match="labels"):
        fnn.cross_entropy(y, labels, weights[::-1])
    with pytest.raises(fnn.InputError, match="labels"):
        fnn.cross_entropy(y, np.array([[5, 1]]), weights)
