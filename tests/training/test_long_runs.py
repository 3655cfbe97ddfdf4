"""What lasts: nothing is traced after the first epoch, and memory does not grow."""

import os

import jax
import optax
import pytest
from tests.other_process import python
from tests.training import small_run
from tests.training.small_run import DATA

import functional_nn as fnn


@pytest.fixture
def traces():
    """A list that grows with each trace, lowering and compilation that JAX does."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **about: seen.append(event) if "/compile/" in event else None
    )
    yield seen
    jax.monitoring.clear_event_listeners()


def test_nothing_is_traced_after_the_first_epoch(traces):
    counts = []
    net, rule = fnn.chain(fnn.dropout(0.1), fnn.dense(3)), optax.adam(1e-2)
    small_run.fit(net, optimizer=rule, epochs=5, on_epoch=lambda metrics, train_state: counts.append(len(traces)))
    assert counts[0] > 0
    assert len(set(counts)) == 1, traces[counts[0] :]
    small_run.fit(net, optimizer=rule, epochs=2, seed=1)
    assert len(traces) == counts[0], traces[counts[0] :]


def test_a_sweep_traces_nothing_after_its_first_epochs(traces):
    counts = []
    rule = lambda h: optax.sgd(h["learning_rate"])  # noqa: E731
    members = fnn.grid(learning_rate=[0.1, 0.2], seed=range(2))
    options = {"epochs": 4, "batch_size": 20, "plan": "sequential"}
    fnn.sweep(fnn.dense(3), rule, members, DATA, on_epoch=lambda *_: counts.append(len(traces)), **options)
    assert len(counts) == 16
    assert len(set(counts)) == 1, traces[counts[0] :]


GROWTH = """
    import gc, resource, jax, numpy as np, optax, functional_nn as fnn
    x = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)
    data = fnn.data.Split(x, np.arange(64) % 3, x, np.arange(64) % 3)

    def memory():
        gc.collect()
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
"""


STEPS = """
    seen = []
    note = lambda metrics, train_state: seen.append(memory()) if metrics.epoch in (250, 2500) else None
    fnn.fit(fnn.dense(3), fnn.cross_entropy, optax.adam(1e-3), data, epochs=2500, batch_size=16, on_epoch=note)
    print(seen[1] - seen[0])
"""
"""10,000 steps. The first 250 epochs may fill caches."""
FITS = """
    net, rule = fnn.dense(3), optax.adam(1e-3)
    for number in range(100):
        if {}:
            net, rule = fnn.chain(fnn.dense(4), fnn.relu, fnn.dense(3)), optax.adam(1e-3)
        fnn.fit(net, fnn.cross_entropy, rule, data, epochs=1, batch_size=16)
        if number == 30:
            before = memory()
    print(memory() - before)
"""
"""Of one network, whose programs are kept, or of a new one each, whose programs are dropped again."""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize(("code", "limit"), [(STEPS, 10), (FITS.format(False), 60), (FITS.format(True), 60)])
def test_many_steps_and_many_fits_need_no_more_memory(code, limit):
    assert int(python(GROWTH + code).stdout) < limit * 2**20
