"""Test and validation examples that come batch by batch: the metrics are those of the same examples in memory."""

import numpy as np
import pytest
from tests.training import small_run
from tests.training.small_run import RULE

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.data import Stream

RANDOM = np.random.default_rng(0)
X, LABELS = small_run.X[:40], small_run.LABELS[:40]
TRAIN = [(X[:16], LABELS[:16]), (X[16:32], LABELS[16:32])]
NET = fnn.chain(fnn.dense(3))
METRICS = {
    "accuracy": fnn.metrics.accuracy,
    "f1": fnn.metrics.f1_score,
    "calibration": fnn.metrics.calibration_error,
    "mean": lambda y, labels: y.mean(),
}


def in_batches(x, labels, size):
    return [(x[start : start + size], labels[start : start + size]) for start in range(0, len(x), size)]


def fit(train=TRAIN, metrics=None, **parts):
    return fnn.fit(NET, fnn.cross_entropy, RULE, Stream(train, **parts), epochs=2, metrics=metrics, progress=False)


@pytest.mark.parametrize("size", [8, 39])
def test_the_metrics_are_those_of_examples_in_memory(size):
    in_memory = fit(metrics=METRICS, test_x=X, test_labels=LABELS)
    streamed = fit(metrics=METRICS, test=in_batches(X, LABELS, size))
    for ours, theirs in zip(streamed.history, in_memory.history, strict=True):
        assert list(ours.metrics) == list(theirs.metrics)
        assert ours.metrics["test_accuracy"] == theirs.metrics["test_accuracy"]
        assert ours.metrics["test_f1"] == theirs.metrics["test_f1"]
        for name in ours.metrics:
            np.testing.assert_allclose(ours.metrics[name], theirs.metrics[name], rtol=1e-5, atol=1e-7)
    assert streamed.test_metrics == pytest.approx(in_memory.test_metrics, rel=1e-5)


def test_ignored_labels_and_padding_count_as_in_memory():
    lengths = RANDOM.integers(1, 5, 40)
    mask = np.arange(4) < lengths[:, None]
    values = RANDOM.normal(size=(40, 4, 5)).astype(np.float32)
    labels = RANDOM.integers(0, 3, (40, 4)).astype(np.int32)

    def part(start, end):
        return fnn.Masked(values[start:end], mask[start:end]), labels[start:end]

    train = [part(0, 16)]
    x, y = part(0, 40)
    streamed = fit(train=train, test=[part(0, 15), part(15, 30), part(30, 40)]).history[-1]
    in_memory = fit(train=train, test_x=x, test_labels=y).history[-1]
    assert streamed.test_accuracy == in_memory.test_accuracy
    np.testing.assert_allclose(streamed.test_loss, in_memory.test_loss, rtol=1e-6)


def test_validation_examples_decide_and_test_examples_come_at_the_end():
    validation = {"validation_x": X[:20], "validation_labels": LABELS[:20]}
    run = fit(test=in_batches(X, LABELS, 16), **validation)
    assert list(run.history[-1].metrics) == ["train_loss", "validation_loss", "validation_accuracy"]
    expected = fit(test_x=X, test_labels=LABELS, validation=in_batches(X[:20], LABELS[:20], 16))
    assert run.test_metrics == pytest.approx(expected.test_metrics, rel=1e-5)
    assert run.history[-1].metrics == pytest.approx(expected.history[-1].metrics, rel=1e-5)


def test_an_error_or_ctrl_c_in_the_last_evaluation_keeps_the_run():
    def test_that_raises(error):
        yield X[:16], LABELS[:16]  # the shapes are read from this batch, before training
        raise error

    with pytest.raises(OSError, match="the disk is gone") as failure:
        fit(validation=TRAIN, test=lambda: test_that_raises(OSError("the disk is gone")))
    run = failure.value.run
    assert (run.status, len(run.history), run.test_metrics) == ("finished", 2, {})
    run = fit(validation=TRAIN, test=lambda: test_that_raises(KeyboardInterrupt()))
    assert (run.status, len(run.history), run.test_metrics) == ("interrupted", 2, {})
    assert run.message == "Interrupted in the evaluation of the test examples, after 2 of 2 epochs, which are kept."


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"test": 3}, "test: expected an iterable of pairs .* that starts again"),
        ({"test": iter(TRAIN)}, "A generator ends once: give the function that makes it"),
        ({"test": TRAIN, "test_x": X}, "test: expected either test or test_x with test_labels, got"),
        ({"ahead": -1}, "ahead: expected"),
        ({"test": []}, "test: number of batches: expected at least 1, got 0"),
        ({"test": [3]}, r"test: batch 1: expected a pair \(x, labels\), got 3"),
        ({"test": [(X[:8, :4], LABELS[:8])]}, "test data: expected examples of shape"),
        ({"test": [(X, LABELS), (X[:, :4], LABELS)]}, "test: batch 2: .*Only the last may have fewer examples"),
        ({"test": [(X, LABELS), (X[:8], LABELS[:8]), (X, LABELS)]}, "test: batch 2: expected 40 examples, because"),
        ({"test": [(X, LABELS[:8])]}, "test: batch 1: expected as many labels as examples"),
        ({"test": [(X, LABELS + 3)]}, "test data"),
    ],
)
def test_a_stream_that_cannot_be_evaluated_says_why(parts, words):
    with pytest.raises(InputError, match=words):
        fit(**parts)


def test_a_run_continues_although_its_streams_begin_with_other_batches(tmp_path):
    """The batches of a stream may be drawn anew whenever it is read, so they are not compared."""
    for epochs, rows in ((1, slice(None)), (2, slice(None, None, -1))):
        stream = Stream([(X[rows][:16], LABELS[rows][:16])], test=in_batches(X[rows], LABELS[rows], 16))
        run = fnn.fit(NET, fnn.cross_entropy, RULE, stream, epochs=epochs, progress=False, checkpoints=tmp_path)
    assert run.restored_epochs == 1
