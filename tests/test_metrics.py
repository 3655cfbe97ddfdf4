"""Metrics: values against loops, and exact over uneven batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

METRICS = [
    *(fnn.metrics.accuracy, fnn.metrics.confusion_matrix, fnn.metrics.f1_score),
    *(fnn.metrics.calibration_error, fnn.metrics.brier_score, fnn.metrics.top_k_accuracy(2)),
]
"""One for each kind of totals: precision and recall have those of F1."""

JITTED_TOTALS = {metric: jax.jit(metric.totals) for metric in METRICS}
JITTED = {metric: jax.jit(metric) for metric in METRICS}
CLASSES = 5


def examples(count, seed=0):
    random = np.random.default_rng(seed)
    y = random.normal(size=(count, CLASSES)).astype(np.float32) * 2
    return y, random.integers(0, CLASSES - 1, count)  # the last class has no examples


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_totals_of_uneven_batches_give_exactly_the_metric_of_all(metric):
    """Counts bit for bit; sums of confidences and weights to float32's rounding."""
    y, labels = examples(6)
    weights = np.array([3, 0, 1, 2, 1, 3])
    totals = [JITTED_TOTALS[metric](y[part], labels[part], weights[part]) for part in (slice(0, 1), slice(1, 6))]
    found = metric.result(jax.tree.map(np.add, *totals))
    whole = JITTED[metric](y, labels, weights)
    if metric.name in ("calibration_error", "brier_score"):
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, whole)


def counted(y, labels, weights):
    """For each class: right, predicted and labels, by a loop."""
    counts = np.zeros((3, CLASSES))
    for row, label, weight in zip(y, labels, weights, strict=True):
        predicted = max(range(CLASSES), key=lambda k: row[k])
        counts[0, label] += weight * (predicted == label)
        counts[1, predicted] += weight
        counts[2, label] += weight
    return counts


def divided(a, b):
    return a / b if b else 0.0


def test_scores_against_loops():
    y, labels = examples(13)
    y[:, 1] = -9  # never predicted
    weights = np.random.default_rng(1).integers(1, 4, 13)
    right, predicted, of_label = counted(y, labels, weights)
    precision = [divided(right[k], predicted[k]) for k in range(CLASSES)]
    recall = [divided(right[k], of_label[k]) for k in range(CLASSES)]
    f1 = [divided(2 * p * r, p + r) for p, r in zip(precision, recall, strict=True)]
    occurs = [k for k in range(CLASSES) if predicted[k] + of_label[k]]
    share = right.sum() / weights.sum()
    for make, default, expected in (
        (fnn.metrics.precision_score_with, fnn.metrics.precision_score, precision),
        (fnn.metrics.recall_score_with, fnn.metrics.recall_score, recall),
        (fnn.metrics.f1_score_with, fnn.metrics.f1_score, f1),
    ):
        metrics = make(average=None), default, make(average="micro")
        of_classes, mean, micro = jax.jit(lambda *given, metrics=metrics: [metric(*given) for metric in metrics])(
            y, labels, weights
        )
        np.testing.assert_allclose(of_classes, expected, rtol=1e-6)
        np.testing.assert_allclose(mean, np.mean([expected[k] for k in occurs]), rtol=1e-6)
        np.testing.assert_allclose(micro, share, rtol=1e-6)
    np.testing.assert_allclose(JITTED[fnn.metrics.accuracy](y, labels, weights), share, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_top_k_against_sorting(k):
    y, labels = examples(17)
    y = np.round(y)  # with equal outputs, of which the first class counts as the larger
    order = np.argsort(-y, axis=1, kind="stable")[:, :k]
    expected = np.mean([label in row for row, label in zip(order, labels, strict=True)])
    np.testing.assert_allclose(jax.jit(fnn.metrics.top_k_accuracy(k))(y, labels), expected, rtol=1e-6)
    if k == 1:
        np.testing.assert_allclose(
            JITTED[fnn.metrics.accuracy](y, labels), np.mean(y.argmax(axis=1) == labels), rtol=1e-6
        )


@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_error_against_a_loop(bins):
    y, labels = examples(29)
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(29) if b / bins < p[i].max() <= (b + 1) / bins]
        total += abs(sum(float(p[i].argmax() == labels[i]) - p[i].max() for i in inside))
    metric = jax.jit(fnn.metrics.calibration_error_with(bins=bins))
    np.testing.assert_allclose(metric(y, labels), total / 29, rtol=1e-5)


def test_brier_score_against_a_loop():
    y, labels = examples(11)
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    total = sum((p[i, k] - (labels[i] == k)) ** 2 for i in range(11) for k in range(CLASSES))
    np.testing.assert_allclose(JITTED[fnn.metrics.brier_score](y, labels), total / 11, rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_masked_sequences_count_their_real_steps(metric):
    """Padding may hold NaN and labels that are no class."""
    y, labels = examples(6)
    expected = JITTED[metric](y, labels)
    mask = np.array([[1, 1, 0, 1], [1, 0, 1, 1]], bool)
    padded, padded_labels = np.full((2, 4, CLASSES), np.nan, np.float32), np.full((2, 4), -1)
    padded[mask], padded_labels[mask] = y, labels
    np.testing.assert_allclose(JITTED[metric](fnn.Masked(padded, mask), padded_labels), expected, rtol=1e-6)
    assert (JITTED[metric](fnn.Masked(padded, mask & False), padded_labels) == 0).all()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_bad_labels_and_nan_under_jit_are_never_plausible(metric):
    y, labels = examples(6)
    for bad in (-1, CLASSES):
        with pytest.raises(fnn.InputError, match=f"labels: expected labels from 0 to 4.*got {bad}"):
            metric(y, np.where(np.arange(6) == 1, bad, labels))
    for bad in (
        (y, np.where(np.arange(6) == 1, CLASSES, labels)),
        (np.where(y == y[1, 2], np.nan, y), labels),
        (y, labels, -np.ones(6, int)),
    ):
        assert np.isnan(JITTED[metric](*bad)).all()


def test_what_metrics_refuse():
    y = jnp.zeros((3, 2))
    with pytest.raises(fnn.InputError, match=r"labels: expected one integer per row of y, shape \(3,\)"):
        fnn.metrics.accuracy(y, jnp.zeros((3, 1), int))
    with pytest.raises(fnn.InputError, match="one integer per row of y"):
        fnn.metrics.accuracy(y, jnp.zeros(3))
    with pytest.raises(fnn.InputError, match="at least one example"):
        fnn.metrics.accuracy(np.zeros((0, 3), np.float32), np.zeros(0, int))
    with pytest.raises(fnn.InputError, match=r"weights: expected one weight per value, shape \(3,\)"):
        fnn.metrics.accuracy(y, jnp.zeros(3, int), jnp.ones((3, 1)))
    with pytest.raises(fnn.InputError, match="weights: expected weights not below 0"):
        fnn.metrics.accuracy(y, jnp.zeros(3, int), -jnp.ones(3))


def test_counts_are_exact_in_low_precision():
    """Not in bfloat16, where 257 examples would be 256."""
    y = jnp.zeros((257, 2), jnp.bfloat16)
    assert JITTED_TOTALS[fnn.metrics.accuracy](y, jnp.zeros(257, jnp.uint8))["weight"] == 257


def test_sums_over_many_examples_do_not_stop_growing():
    """Of float32 values that are added one by one, a sum rounds each time, and stops growing at 2^24 ones."""
    count, right = 2**20, jnp.array([[1.0, 0.0]])
    y, labels = jnp.broadcast_to(right, (count, 2)), jnp.zeros(count, jnp.int32)
    error = jax.jit(fnn.metrics.calibration_error)(y, labels)
    np.testing.assert_allclose(error, 1 - jax.nn.softmax(right)[0, 0], rtol=1e-5)
    y, labels, weights = y[: 2**14], labels[: 2**14], jnp.full(2**14, 4097)
    total = 4097 * 2**14
    np.testing.assert_array_equal(JITTED[fnn.metrics.confusion_matrix](y, labels, weights), [[total, 0], [0, 0]])
    for sums in JITTED_TOTALS[fnn.metrics.f1_score](y, labels, weights).values():
        np.testing.assert_array_equal(sums, [total, 0])
