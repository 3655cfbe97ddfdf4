"""Training on a stream of batches: the same steps as on data in memory, for every kind of iterable."""

import jax
import numpy as np
import optax
import pytest
from tests.training.small_run import ADAM, bits

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.data import Stream

RANDOM = np.random.default_rng(0)
X, LABELS = RANDOM.normal(size=(48, 5)).astype(np.float32), RANDOM.integers(0, 3, 48).astype(np.int32)
NET = fnn.chain(fnn.dropout(0.1), fnn.dense(3))


def batches(epoch):
    order = np.random.default_rng(epoch).permutation(48)
    for rows in order.reshape(3, 16):
        yield X[rows], LABELS[rows]


def fit(data, net=NET, **options):
    return fnn.fit(net, fnn.cross_entropy, ADAM, data, **{"epochs": 2, "progress": False, **options})


def losses(run):
    return [metrics.train_loss for metrics in run.history]


def test_a_stream_trains_by_the_steps_of_a_loop():
    run = fit(Stream(batches, test_x=X, test_labels=LABELS))
    step = jax.jit(fnn.training.make_train_step(NET, fnn.cross_entropy, ADAM))
    train_state = fnn.training.create_train_state(NET, ADAM, jax.random.key(0), (5,))
    for epoch in (1, 2):
        values = []
        for x, labels in batches(epoch):
            train_state, loss = step(train_state, x, labels)
            values.append(float(loss))
        np.testing.assert_allclose(run.history[epoch - 1].train_loss, np.mean(values), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), run.params, train_state.params)
    assert run.train_state.step == 6
    assert list(run.history[0].metrics) == ["train_loss", "test_loss", "test_accuracy"]


def test_every_iterable_gives_the_same_batches():
    both = list(batches(1)) + list(batches(2))
    lists = [list(pair) for pair in both]  # as PyTorch's loaders give pairs
    expected = losses(fit(Stream(batches)))
    for data in (Stream(iter(both), steps=3), Stream(lambda epoch: lists[3 * epoch - 3 :], steps=3)):
        assert losses(fit(data)) == expected
    again = fit(Stream(list(batches(1))))
    assert losses(again)[0] == expected[0]
    assert losses(again)[1] != expected[1]


def test_a_stopped_run_continues_with_its_bits(tmp_path):
    whole = fit(Stream(batches), epochs=3)
    fit(Stream(batches), epochs=1, checkpoints=tmp_path)
    resumed = fit(Stream(batches), epochs=3, checkpoints=tmp_path)
    assert resumed.restored_epochs == 1
    assert bits(resumed) == bits(whole)
    rest = fit(Stream(batches, steps=3), epochs=2, start=fit(Stream(batches), epochs=1).train_state)
    assert bits(rest) == bits(whole)


def test_a_train_state_goes_on_only_if_epochs_can_be_counted():
    """A function would be asked for epoch 1 again. A list has the same batches in every epoch."""
    start = fnn.training.create_train_state(NET, ADAM, jax.random.key(0), (5,))
    start = start._replace(step=start.step + 3)
    with pytest.raises(InputError, match=r"data\.steps: expected the number of batches in an epoch"):
        fit(Stream(batches), start=start)
    assert fit(Stream(list(batches(1))), epochs=1, start=start).status == "finished"


def test_images_are_scaled_and_flattened_as_those_of_a_data_set():
    images = RANDOM.integers(0, 256, (16, 4, 3, 1), np.uint8)
    run = fit(Stream([(images, LABELS[:16])]), net=fnn.dense(3))
    assert run.in_shape == (12,)
    scaled = fit(Stream([(images.reshape(16, 12).astype(np.float32) / 255, LABELS[:16])]), net=fnn.dense(3))
    np.testing.assert_allclose(losses(run), losses(scaled), rtol=1e-6)


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (lambda: Stream(3), "batches: expected an iterable of pairs"),
        (lambda: Stream(iter(batches(1))), "because a generator ends once"),
        (lambda: Stream([3]), r"epoch 1, batch 1: expected a pair \(x, labels\), got 3"),
        (lambda: Stream(lambda epoch: 3), "a function that returns an iterable"),
        (lambda: Stream(batches, steps=4), "epoch 1, number of batches: expected at least 4, got 3"),
        (lambda: Stream([(X, LABELS), (X[:5], LABELS[:5])]), r"epoch 1, batch 2: .*\(48, 5\).*\(5, 5\).*smaller last"),
        (lambda: Stream([(X, LABELS[:5])]), "as many labels as examples"),
    ],
)
def test_a_stream_that_cannot_be_read_says_why(stream, words):
    with pytest.raises(InputError, match=words):
        fit(stream())


def test_a_sweep_takes_data_in_memory_only():
    with pytest.raises(InputError, match="data: expected a Dataset or a Split"):
        fnn.sweep(NET, lambda h: optax.sgd(h["rate"]), fnn.grid(rate=[0.1]), Stream(batches), epochs=1)
