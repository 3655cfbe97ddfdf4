"""An epoch is every example once, in a new order, with the last smaller batch counted for what it is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.training import small_run
from tests.training.small_run import ADAM, DEEP

import functional_nn as fnn
from functional_nn.training.epoch import shuffled
from functional_nn.training.state import derived_key

EXAMPLES, BATCH = 23, 5


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    return random.normal(size=(EXAMPLES, 4)).astype(np.float32), random.integers(0, 3, EXAMPLES).astype(np.int32)


PLAIN = fnn.chain(fnn.dense(3))


def started(net, in_shape=(4,)):
    """Its train state at the start, made by one program."""
    return jax.jit(lambda key: fnn.training.create_train_state(net, ADAM, key, in_shape))(jax.random.key(0))


def by_hand(step, train_state, x, labels, number, batch_size):
    """The epoch as a Python loop."""
    order = np.asarray(shuffled(derived_key(train_state.key, "shuffle", number), len(x)))
    losses, sizes = [], []
    for start in range(0, len(x), batch_size):
        rows = order[start : start + batch_size]
        train_state, loss = step(train_state, x[rows], labels[rows])
        losses.append(loss)
        sizes.append(len(rows))
    return train_state, np.average(losses, weights=sizes)


def assert_close(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a._replace(key=None)), jax.tree.leaves(b._replace(key=None)), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("net", "batch_size"), [(DEEP, BATCH), (PLAIN, 1000)], ids=["part", "whole"])
def test_last_partial_batch(data, net, batch_size):
    """State and mean loss are those of a loop over batches of 5, 5, 5, 5 and 3; also where one batch holds all."""
    step = jax.jit(fnn.training.make_train_step(net, fnn.cross_entropy, ADAM))
    epoch = jax.jit(fnn.training.make_epoch(step, batch_size))
    run = small_run.fit(net, optimizer=ADAM, data=fnn.data.Split(*data), epochs=2, batch_size=batch_size)
    after = expected = started(net)
    for number in range(2):
        after, result = epoch(after, *data, np.int32(number))
        expected, loss = by_hand(step, expected, *data, number, batch_size)
        np.testing.assert_allclose((result.loss, run.history[number].train_loss), loss, rtol=1e-5)
        assert result.bad_step == -1
    assert_close(after, expected)
    assert_close(run.train_state, expected)
    assert after.step == 2 * -(-EXAMPLES // batch_size)


def test_a_single_example_left_over_for_batch_norm(data):
    """23 = 2 · 11 + 1: the last batch has one value per channel, which the error says at trace time."""
    start = started(DEEP)
    epoch = fnn.training.make_epoch(fnn.training.make_train_step(DEEP, fnn.cross_entropy, ADAM), 11)
    with pytest.raises(fnn.InputError, match="batch_norm_0: x: expected at least two values per channel"):
        jax.jit(epoch)(start, *data, np.int32(0))


def test_every_epoch_has_its_own_order():
    key = jax.random.key(0)
    orders = [tuple(shuffled(derived_key(key, "shuffle", number), 50).tolist()) for number in range(5)]
    assert len(set(orders)) == 5
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_more_than_65536_numbers_are_in_the_order_of_their_random_bits():
    size, key = 65_537, jax.random.key(0)
    order = np.asarray(shuffled(key, size))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order, np.argsort(np.asarray(jax.random.bits(key, (size,), "uint32")), kind="stable"))


@pytest.mark.parametrize("size", [1, 257, 65536])
def test_shuffled_is_a_permutation(size):
    order = np.asarray(shuffled(jax.random.key(0), size))
    assert order.dtype == np.int32
    assert (np.bincount(order, minlength=size) == 1).all()


def test_shuffled_is_fair():
    """Over 20,000 orders of 4 numbers all 24 come about equally often (chi-squared, 23 degrees of freedom)."""
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, 4))(jax.random.split(jax.random.key(0), 20_000)))
    counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert np.sum((counts - 20_000 / 24) ** 2 / (20_000 / 24)) < 49.7  # one in a thousand


@partial(jax.jit, static_argnums=0)
def loss_and_accuracy(net, start, x, labels):
    y, _ = net.apply(start.params, start.state, x, train=False)
    return fnn.cross_entropy(y, labels), fnn.metrics.accuracy(y, labels)


def assert_loss_and_accuracy(result, net, start, x, labels):
    """They are those of all examples at once."""
    expected = loss_and_accuracy(net, start, x, labels)
    np.testing.assert_allclose((result.loss, result.accuracy), expected, rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "ignored"), [(4, 9), (100, 0)])
def test_evaluation_is_exact_over_uneven_batches_and_leaves_ignored_labels_out(data, batch_size, ignored):
    """Batches have more and fewer labels that are ignored."""
    x, labels = data[0], np.where(np.arange(EXAMPLES) < ignored, -1, data[1])
    loss, net = fnn.losses.cross_entropy_with(ignore_index=-1), PLAIN
    start = started(net)
    result = jax.jit(fnn.training.make_evaluate(net, loss, batch_size=batch_size))(start, x, labels)
    assert_loss_and_accuracy(result, net, start, x[ignored:], labels[ignored:])


@pytest.mark.parametrize(("batch_size", "traces"), [(4, 2), (100, 1)])
def test_evaluation_traces_a_network_once_for_each_size_of_batch(data, batch_size, traces):
    shapes = []

    def seen(x):
        shapes.append(x.shape)
        return x

    net = fnn.chain(fnn.dense(3), seen)
    start = started(net)
    shapes.clear()
    jax.jit(fnn.training.make_evaluate(net, fnn.cross_entropy, batch_size=batch_size)).trace(start, *data)
    assert len(shapes) == len(set(shapes)) == traces


def test_losses_and_metrics_in_float16_are_summed_in_float32():
    """The number of examples, 70,000, is infinite in float16, and a mean divided by it is 0."""

    def in_float16(mean):
        return lambda y, labels: mean(y - labels).astype(jnp.float16)

    loss = in_float16(lambda error: jnp.mean(jnp.square(error)))
    x, labels = np.zeros((70_000, 1), np.float32), np.linspace(0, 1, 70_000, dtype=np.float32)[:, None]
    data, options = fnn.data.Split(x, labels, x, labels), {"epochs": 1, "batch_size": 35_000, "progress": False}
    metrics = {"distance": in_float16(lambda error: jnp.mean(abs(error)))}
    run = fnn.fit(fnn.dense(1), loss, optax.sgd(0.0), data, metrics=metrics, **options)
    found = run.history[0].metrics
    means = [found[name] for name in ("train_loss", "test_loss", "test_distance")]
    np.testing.assert_allclose(means, [1 / 3, 1 / 3, 0.5], rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "right", "labels"),
    [
        # -100 as a byte is 156, which is a class here, and the only one that is not predicted.
        ({"ignore_index": -100}, [0, 3, 5], np.array([156, 3, 5], np.uint8)),
        # Not even the weight 0 of a class changes the accuracy. An ignored label is left out all the same.
        ({"class_weights": [0.0, *199 * [1.0]], "ignore_index": -1}, [1, 1, 0, 1], np.array([0, 1, 0, -1])),
    ],
)
def test_labels_that_count_in_the_accuracy(options, right, labels):
    loss, net = fnn.losses.cross_entropy_with(**options), fnn.chain(lambda x: x)
    evaluate = jax.jit(fnn.training.make_evaluate(net, loss))
    result = evaluate(started(net, (200,)), np.eye(200, dtype=np.float32)[right], labels)
    np.testing.assert_allclose(result.accuracy, 2 / 3, rtol=1e-6)


def test_data_are_arguments_and_not_constants(data):
    """A captured data set would stand in the program as a constant and slow its compilation."""
    epoch = fnn.training.make_epoch(fnn.training.make_train_step(PLAIN, fnn.cross_entropy, ADAM), BATCH)
    program = jax.make_jaxpr(epoch)(started(PLAIN), *data, np.int32(0))
    assert all(np.size(constant) < 100 for constant in program.consts)


def test_masked_sequences_are_evaluated_over_real_steps():
    """Padded sequences of up to three steps have a label for each step; those of padding are no classes."""
    random = np.random.default_rng(0)
    mask = np.arange(3) < random.integers(1, 4, EXAMPLES)[:, None]
    x = fnn.Masked(random.normal(size=(EXAMPLES, 3, 4)).astype(np.float32), mask)
    labels = np.where(mask, random.integers(0, 3, (EXAMPLES, 3), np.int32), -9)
    net = PLAIN
    start = started(net, (3, 4))
    evaluated = jax.jit(fnn.training.make_evaluate(net, fnn.cross_entropy, batch_size=BATCH))(start, x, labels)
    assert_loss_and_accuracy(evaluated, net, start, x.values[mask], labels[mask])


def test_accuracy_is_nan_where_labels_are_no_classes(data):
    x, _ = data
    start = started(PLAIN)
    evaluate = jax.jit(fnn.training.make_evaluate(PLAIN, lambda y, labels: jnp.mean(y), batch_size=BATCH))
    for labels in (np.full(EXAMPLES, 7), np.ones(EXAMPLES), np.ones((EXAMPLES, 3), int)):
        result = evaluate(start, x, labels)
        assert np.isfinite(result.loss)
        assert np.isnan(result.accuracy)
        assert ("accuracy" in result.metrics) == (labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer))
