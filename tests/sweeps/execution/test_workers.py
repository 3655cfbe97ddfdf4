"""Threads that share the batches of a sweep."""

from collections import deque

import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.sweeps.execution import workers


def test_fault_59_two_workers_that_want_the_last_batch(monkeypatch):
    """Between a worker's look at the batches that wait and its taking one, another worker can take the last one."""

    class StaleDeque(deque):
        """It looks as if a batch were waiting, as to a worker that looked a moment too early."""

        def __bool__(self):
            return True

    monkeypatch.setattr(workers, "deque", StaleDeque)

    class Batch:
        begun = True
        epochs = 0

        @property
        def goes_on(self):
            return self.epochs < 2

        def run_epoch(self):
            self.epochs += 1

    steps = list(workers.Workers([None, None]).run([Batch()]))
    assert [done for _, done in steps] == [False, True]


@pytest.mark.slow
def test_fault_98_convolutions_of_two_workers():
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
