"""Streams that are read in another thread: the same bits, errors and Ctrl-C as without it, and no thread is left."""

import contextlib
import os
import signal
import threading
import time
import traceback

import jax
import numpy as np
import optax
import pytest
from tests.data.test_stream import reading_threads
from tests.training.small_run import bits
from tests.training.test_streamed_epoch import LABELS, NET, X, batches, fit

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.data import Stream
from functional_nn.data.stream import Batch
from functional_nn.training.epoch_loop import put_batch


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not reading_threads()


def test_the_number_of_batches_ahead_changes_no_bits():
    runs = [fit(Stream(batches, test=lambda: batches(9), ahead=ahead)) for ahead in (0, 2)]
    assert bits(runs[0]) == bits(runs[1])
    assert [metrics.metrics for metrics in runs[0].history] == [metrics.metrics for metrics in runs[1].history]


def test_a_batch_may_be_written_where_the_one_before_it_was():
    """The order of events is: a batch is copied, and only then the next one is asked for."""
    x, labels = np.empty_like(X[:16]), np.empty_like(LABELS[:16])

    def in_one_place(epoch):
        for new_x, new_labels in batches(epoch):
            x[:], labels[:] = new_x, new_labels
            yield x, labels

    assert bits(fit(Stream(in_one_place))) == bits(fit(Stream(batches)))


def test_a_batch_on_the_device_has_memory_of_its_own():
    """JAX uses the memory of NumPy's arrays that begin at a multiple of 64 bytes."""
    memory = np.zeros(8 * 3 + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    x = memory[start : start + 24].reshape(8, 3)
    like = jax.ShapeDtypeStruct((2, 3), np.float32), jax.ShapeDtypeStruct((2,), np.int32)
    on_device, _ = put_batch(Batch(x, np.zeros(8, np.int32)), like, None)
    memory[:] = 1
    assert not np.asarray(on_device).any()


class BrokenDiskError(Exception):
    pass


@pytest.mark.parametrize(("at", "ahead"), [((1, 0), 2), ((1, 2), 0), ((2, 0), 2), ((2, 1), 2)])
def test_an_error_at_a_batch_comes_out_of_fit(at, ahead):
    closed = []

    def breaking(epoch):
        try:
            for number, batch in enumerate(batches(epoch)):
                if (epoch, number) == at:
                    raise BrokenDiskError("sector 7")
                yield batch
        finally:
            closed.append(epoch)

    with pytest.raises(BrokenDiskError, match=r"^sector 7$") as failure:
        fit(Stream(breaking, ahead=ahead))
    assert traceback.extract_tb(failure.tb)[-1].name == "breaking"
    assert closed[-1] == at[0]
    if at != (1, 0):  # the first batch is read before there is a run
        assert len(failure.value.run.history) == at[0] - 1
    assert not reading_threads()


@pytest.mark.parametrize("fault", ["batch", "callback", "patience", "compilation"])
def test_generators_are_closed_after_every_kind_of_error(fault):
    closed = []

    def endless(epoch):
        try:
            while True:
                yield X[:16], LABELS[:16]
                if fault == "batch":
                    yield X[:15], LABELS[:15]
        finally:
            closed.append(threading.get_ident())

    def on_epoch(metrics, train_state):
        raise BrokenDiskError

    options = {"callback": {"on_epoch": on_epoch}, "patience": {"patience": 1}}.get(fault, {})
    if fault == "compilation":
        options["metrics"] = {"broken": lambda y, labels: 1 / 0}
    test = {"test_x": X, "test_labels": LABELS} if fault == "compilation" else {}
    with pytest.raises((InputError, BrokenDiskError, ZeroDivisionError)):
        fit(Stream(endless, steps=3, **test), **options)
    assert len(closed) == 1
    assert not reading_threads()


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_iterator_with_more_batches_than_steps_is_closed_after_each_epoch(ahead):
    opened, closed = [], []

    class Reader:
        """It is closed by its method only, and not when it is forgotten, unlike a generator."""

        def __init__(self, epoch):
            opened.append((epoch, self))

        def __iter__(self):
            return self

        def __next__(self):
            return X[:16], LABELS[:16]

        def close(self):
            closed.append(self)

    fit(Stream(Reader, steps=3, ahead=ahead))
    assert [epoch for epoch, _ in opened] == [1, 2]
    assert closed == [reader for _, reader in opened]


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_generator_of_the_user_is_not_closed_and_not_read_too_far(ahead):
    numbers = iter(range(100))

    def endless():
        for _ in numbers:
            yield X[:16], LABELS[:16]

    generator = endless()
    fit(Stream(generator, steps=3, ahead=ahead))
    assert next(numbers) == 6
    next(generator)


def test_a_run_that_continues_uses_the_first_batch_of_a_generator():
    start = fit(Stream(batches), epochs=1).train_state
    expected = fit(Stream(list(batches(2)), steps=3), epochs=1, start=start)
    assert bits(fit(Stream(batches(2), steps=3), epochs=1, start=start)) == bits(expected)


@pytest.mark.parametrize(("ahead", "ignored"), [(0, ()), (2, ()), (0, (KeyboardInterrupt,))])
@pytest.mark.parametrize("part", ["train", "test"])
def test_ctrl_c_ends_the_run_and_the_thread(part, ahead, ignored):
    """It counts before the next batch, even if the iterable ignores it."""
    asked, closed = [], []

    def interrupting(epoch):
        try:
            for number, batch in enumerate(batches(epoch)):
                asked.append((epoch, number))
                if (epoch, number) == (2, 1):
                    with contextlib.suppress(*ignored):
                        os.kill(os.getpid(), signal.SIGINT)
                        time.sleep(0.01)
                yield batch
        finally:
            closed.append(epoch)

    passes = iter(range(100))  # the first one only looks at the shapes
    test = (lambda: interrupting(next(passes))) if part == "test" else None
    run = fit(Stream(interrupting if part == "train" else batches, test=test, ahead=ahead), epochs=5)
    assert (run.status, len(run.history)) == ("interrupted", 1)
    assert closed[-1] == 2
    assert ahead or asked[-1] == (2, 1)
    assert not reading_threads()


@pytest.mark.usefixtures("no_search")
@pytest.mark.filterwarnings("ignore:Loss or update were not finite")
def test_an_update_that_is_not_finite_changes_nothing_although_the_loss_is_finite():
    start = fit(Stream(batches), epochs=1)
    endless = optax.scale(float("inf"))
    run = fnn.fit(NET, fnn.cross_entropy, endless, Stream(batches), start=(start.params, start.state), epochs=1)
    assert run.history[0].skipped_steps == 3
    assert run.train_state.step == 0
    assert np.isnan(run.history[0].train_loss)
    jax.tree.map(np.testing.assert_array_equal, run.params, start.params)
