"""Threads that share the batches of a sweep."""

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.sweeps import plan as plans


def test_of_two_workers_one_takes_the_only_batch():
    class Batch:
        epochs, done = 0, False

        def begin(self, device):
            pass

        def run_epoch(self):
            self.epochs += 1
            self.done = self.epochs == 2

    steps = list(plans.in_threads([None, None], [Batch()]))
    assert [done for _, done in steps] == [False, True]


@pytest.mark.slow
def test_convolutions_of_two_workers():
    """With tasks left in the queue of XLA's threads, the gradients were wrong after some 200 of these steps."""
    steps, batch_size = 400, 32
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps * batch_size, 14, 14, 16)).astype(np.float32)
    data = fnn.data.Split(images, rng.integers(0, 10, len(images)))
    layers = [fnn.conv(16, 1), fnn.conv(64, 3), fnn.batch_norm(), fnn.relu, fnn.flatten(), fnn.dense(10)]
    net = fnn.with_hand_vjp(fnn.chain(*layers))

    def trained(plan):
        grid, plans = fnn.grid(seed=range(2)), {"plan": plan, "progress": False}
        return fnn.sweep(net, optax.sgd(1e-3), grid, data, epochs=1, batch_size=batch_size, **plans).members

    for alone, beside in zip(trained("sequential"), trained("map"), strict=True):
        np.testing.assert_array_equal(alone.params["conv_0"]["weight"], beside.params["conv_0"]["weight"])


def test_workers_draw_the_random_bits_of_the_callers_thread():
    """The careful program is traced by the worker that needs it first."""
    x, labels = np.ones((8, 6), np.float32), np.zeros(8, np.int32)
    x[6] = np.nan
    data = fnn.data.Split(x, labels, x[:4], labels[:4])

    def losses():
        net = fnn.chain(fnn.dropout(0.5), fnn.dense(3))  # made anew, so that its programs are, too
        members = fnn.grid(seed=range(2))
        result = fnn.sweep(net, optax.sgd(0.1), members, data, epochs=1, batch_size=4, plan="sequential")
        return result.curves("train_loss").tolist()

    usual = jax.config.jax_threefry_partitionable
    with jax.threefry_partitionable(not usual):
        in_context = losses()
    try:
        jax.config.update("jax_threefry_partitionable", not usual)
        assert losses() == in_context
    finally:
        jax.config.update("jax_threefry_partitionable", usual)
