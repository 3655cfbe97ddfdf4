"""Threads that share the batches of a sweep."""

from collections import deque

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
