"""Test and validation examples that come batch by batch: the metrics are those of the same examples in memory."""

import itertools

import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.data import Stream

RANDOM = np.random.default_rng(0)
X, LABELS = RANDOM.normal(size=(40, 5)).astype(np.float32), RANDOM.integers(0, 3, 40).astype(np.int32)
TRAIN = [(X[:16], LABELS[:16]), (X[16:32], LABELS[16:32])]
NET = fnn.dense(3)


def in_batches(x, labels, size):
    return [(x[start : start + size], labels[start : start + size]) for start in range(0, len(x), size)]


def fit(net=NET, loss=fnn.cross_entropy, train=TRAIN, metrics=None, start=None, **parts):
    return fnn.fit(
        net, loss, optax.sgd(1e-2), Stream(train, **parts), epochs=2, metrics=metrics, start=start, progress=False
    )


@pytest.mark.parametrize("size", [40, 8, 16, 39])
def test_the_metrics_are_those_of_examples_in_memory(size):
    metrics = {
        "accuracy": fnn.metrics.accuracy,
        "f1": fnn.metrics.f1_score,
        "hinge": fnn.multiclass_hinge,
        "calibration": fnn.metrics.calibration_error,
        "mean": lambda y, labels: y.mean(),
    }
    in_memory = fit(metrics=metrics, test_x=X, test_labels=LABELS)
    streamed = fit(metrics=metrics, test=in_batches(X, LABELS, size))
    for ours, theirs in zip(streamed.history, in_memory.history, strict=True):
        assert list(ours.metrics) == list(theirs.metrics)
        assert ours.metrics["test_accuracy"] == theirs.metrics["test_accuracy"]
        assert ours.metrics["test_f1"] == theirs.metrics["test_f1"]
        for name in ours.metrics:
            np.testing.assert_allclose(ours.metrics[name], theirs.metrics[name], rtol=1e-5, atol=1e-7)
    assert streamed.test_metrics == pytest.approx(in_memory.test_metrics, rel=1e-5)


@pytest.mark.parametrize("size", [10, 12])
def test_sums_without_rounding_are_equal_bit_by_bit(size):
    """All numbers are small integers, so that no addition is rounded."""
    x = RANDOM.integers(-3, 4, (40, 5)).astype(np.float32)
    labels = RANDOM.integers(-3, 4, (40, 2)).astype(np.float32)
    net, loss = fnn.dense(2, bias=False), fnn.mean_squared_error
    start = ({"weight": RANDOM.integers(-2, 3, (5, 2)).astype(np.float32)}, {})
    metrics = {"mse": fnn.mean_squared_error}

    def run(**parts):
        stream = Stream([(x[:16], labels[:16])], **parts)
        return fnn.fit(net, loss, optax.sgd(0.0), stream, epochs=1, metrics=metrics, start=start, progress=False)

    expected = run(test_x=x, test_labels=labels).history[0].metrics
    assert run(test=in_batches(x, labels, size)).history[0].metrics == expected


def test_ignored_labels_and_padding_count_as_in_memory():
    lengths = RANDOM.integers(1, 5, 40)
    mask = np.arange(4) < lengths[:, None]
    values = RANDOM.normal(size=(40, 4, 5)).astype(np.float32)
    labels = RANDOM.integers(0, 3, (40, 4)).astype(np.int32)

    def part(start, end):
        return fnn.Masked(values[start:end], mask[start:end]), labels[start:end]

    train = [part(0, 16)]
    x, y = part(0, 40)
    net = fnn.chain(fnn.dense(3))
    streamed = fit(net=net, train=train, test=[part(0, 15), part(15, 30), part(30, 40)]).history[-1]
    in_memory = fit(net=net, train=train, test_x=x, test_labels=y).history[-1]
    assert streamed.test_accuracy == in_memory.test_accuracy
    np.testing.assert_allclose(streamed.test_loss, in_memory.test_loss, rtol=1e-6)


def test_what_a_loss_reports_is_averaged_over_all_examples():
    def loss(y, labels):
        return fnn.cross_entropy(y, labels), {"size": (y**2).mean()}

    streamed = fit(loss=loss, test=in_batches(X, LABELS, 16)).history[-1].metrics
    in_memory = fit(loss=loss, test_x=X, test_labels=LABELS).history[-1].metrics
    assert list(streamed) == list(in_memory)
    np.testing.assert_allclose(streamed["test_size"], in_memory["test_size"], rtol=1e-6)


@pytest.mark.parametrize("streamed", list(itertools.product([False, True], repeat=2)), ids=str)
def test_validation_examples_decide_and_test_examples_come_at_the_end(streamed):
    parts = {}
    for part, is_streamed in zip(("test", "validation"), streamed, strict=True):
        x, labels = (X, LABELS) if part == "test" else (X[:20], LABELS[:20])
        arrays = {f"{part}_x": x, f"{part}_labels": labels}
        parts |= {part: in_batches(x, labels, 16)} if is_streamed else arrays
    run = fit(**parts)
    assert list(run.history[-1].metrics) == ["train_loss", "validation_loss", "validation_accuracy"]
    expected = fit(test_x=X, test_labels=LABELS, validation_x=X[:20], validation_labels=LABELS[:20])
    assert run.test_metrics == pytest.approx(expected.test_metrics, rel=1e-5)
    assert run.history[-1].metrics["validation_accuracy"] == expected.history[-1].metrics["validation_accuracy"]


def test_an_error_in_the_last_evaluation_has_the_run():
    def test():
        yield X[:16], LABELS[:16]  # the shapes are read from this batch, before training
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as failure:
        fit(validation=TRAIN, test=test)
    run = failure.value.run
    assert (run.status, len(run.history), run.test_metrics) == ("finished", 2, {})


def test_ctrl_c_in_the_last_evaluation_keeps_the_run():
    calls = []

    def test():
        calls.append(len(calls))
        yield X[:16], LABELS[:16]
        if calls[-1]:  # the first call reads the shapes, before training
            raise KeyboardInterrupt

    run = fit(validation=TRAIN, test=test)
    assert (run.status, len(run.history), run.test_metrics) == ("interrupted", 2, {})
    assert run.message == "Interrupted in the evaluation of the test examples, after 2 of 2 epochs, which are kept."


def test_a_function_is_called_for_each_evaluation_and_images_are_flattened():
    images = RANDOM.integers(0, 256, (24, 4, 3, 1), np.uint8)
    calls = []

    def test():
        calls.append(None)
        yield from in_batches(images, LABELS[:24], 16)

    run = fit(train=[(images[:16], LABELS[:16])], test=test)
    assert run.in_shape == (12,)
    assert len(calls) == 3  # the shapes before the first epoch, and one evaluation for each of two epochs


def test_a_stopped_run_continues_with_its_metrics(tmp_path):
    def run(epochs, **options):
        stream = Stream(TRAIN, test=in_batches(X, LABELS, 16))
        return fnn.fit(NET, fnn.cross_entropy, optax.sgd(0.1), stream, epochs=epochs, progress=False, **options)

    run(1, checkpoints=tmp_path)
    resumed = run(3, checkpoints=tmp_path)
    assert resumed.restored_epochs == 1
    assert [m.metrics for m in resumed.history] == [m.metrics for m in run(3).history]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"test": 3}, "test: expected an iterable of pairs .* that starts again"),
        ({"test": iter(TRAIN)}, "a generator ends once. Give the function that makes it"),
        ({"test": TRAIN, "test_x": X}, "test: expected either test or test_x with test_labels, got"),
        ({"ahead": -1}, "ahead: expected"),
        ({"test": []}, "test: expected at least one batch, got 0"),
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


def test_a_stream_that_is_empty_the_second_time_says_so():
    passes = iter([TRAIN, TRAIN, []])
    with pytest.raises(InputError, match="test: expected at least one batch, got 0"):
        fit(test=lambda: next(passes))


def test_what_a_function_returned_is_closed_after_an_error():
    passes, closed = iter(range(3)), []

    def test():
        number = next(passes)
        try:
            yield X, LABELS
            yield (X[:, :4] if number == 1 else X), LABELS
        finally:
            closed.append(number)

    with pytest.raises(InputError, match="test: batch 2"):
        fit(test=test)
    assert closed == [0, 1]


def test_a_run_continues_although_its_streams_begin_with_other_batches(tmp_path):
    """The batches of a stream may be drawn anew whenever it is read, so they are not compared."""
    for epochs, rows in ((1, slice(None)), (2, slice(None, None, -1))):
        stream = Stream([(X[rows][:16], LABELS[rows][:16])], test=in_batches(X[rows], LABELS[rows], 16))
        run = fnn.fit(
            NET, fnn.cross_entropy, optax.sgd(0.1), stream, epochs=epochs, progress=False, checkpoints=tmp_path
        )
    assert run.restored_epochs == 1
