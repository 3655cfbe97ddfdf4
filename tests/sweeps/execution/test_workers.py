"""Threads that share the batches of a sweep."""

from collections import deque
from types import SimpleNamespace

from functional_nn.sweeps.execution import workers


def test_fault_59_two_workers_that_want_the_last_batch(monkeypatch):
    """Between a worker's look at the batches that wait and its taking one, another worker can take the last one."""

    class StaleDeque(deque):
        """It looks as if a batch were waiting, as to a worker that looked a moment too early."""

        def __bool__(self):
            return True

    monkeypatch.setattr(workers, "deque", StaleDeque)
    epochs = []
    batch = SimpleNamespace(begun=True, goes_on=lambda until: len(epochs) < until, run_epoch=epochs.append)
    steps = list(workers.Workers([None, None], lambda batch, device: None).run([batch], lambda batch: 2))
    assert [done for _, done in steps] == [False, True]
