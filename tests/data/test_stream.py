"""Streams of arrays: each example once in an epoch, in an order of its own, and divided among processes."""

import threading
import time
from contextvars import ContextVar

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.data import Stream
from functional_nn.data.stream import Batch, StreamReader

X = np.arange(47.0, dtype=np.float32)[:, None]
LABELS = np.arange(47, dtype=np.int32)


def labels_of(stream: Stream, epoch: int) -> list[list[int]]:
    batches = list(stream.epoch(epoch))
    for x, labels in batches:
        np.testing.assert_array_equal(x[:, 0], labels)
    return [labels.tolist() for _, labels in batches]


def test_each_epoch_has_an_order_of_its_own_that_the_seed_decides():
    stream = Stream.of_arrays(X, LABELS, batch_size=9, seed=3)
    first, second = labels_of(stream, 1), labels_of(stream, 2)
    assert stream.steps == len(first) == 5
    assert len({label for batch in first for label in batch}) == 45
    assert first != second
    assert first == labels_of(Stream.of_arrays(X, LABELS, batch_size=9, seed=3), 1)
    assert first != labels_of(Stream.of_arrays(X, LABELS, batch_size=9, seed=4), 1)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_divide_the_examples_and_have_as_many_batches(parts):
    read = [Stream.of_arrays(X, LABELS, batch_size=5, part=(k, parts)) for k in range(1, parts + 1)]
    in_each = [{label for batch in labels_of(stream, 1) for label in batch} for stream in read]
    assert len({stream.steps for stream in read}) == 1
    assert len(set.union(*in_each)) == sum(map(len, in_each))
    for k, labels in enumerate(in_each):
        assert {label % parts for label in labels} == {k}


@jax.numpy_dtype_promotion("standard")  # for Optax
def test_arrays_in_files_are_read_by_rows_and_train(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    stream = Stream.of_arrays(x, np.asarray(x).sum(1, keepdims=True), batch_size=10, test_x=x, test_labels=x[:, :1])
    assert "batches, 20 in each epoch; test examples " in repr(stream)
    run = fnn.fit(fnn.dense(1), fnn.mean_squared_error, optax.adam(0.1), stream, epochs=4)
    assert run.history[-1].train_loss < 0.05
    (batch, _), *_ = stream.epoch(1)
    assert not isinstance(batch, np.memmap)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a positive integer"),
        ({"batch_size": 24, "part": (1, 2)}, "at most 23, the number of examples in a part, got 24"),
        ({"part": (0, 2)}, "number of the part, from 1 to n"),
        ({"part": (1, 48)}, r"part: expected at most 47 parts, the number of examples, got \(1, 48\)"),
        ({"part": 2}, "number of the part, from 1 to n"),
        ({"seed": -1}, "seed: expected an integer not below 0"),
    ],
)
def test_wrong_arguments_of_arrays(options, message):
    with pytest.raises(InputError, match=message):
        Stream.of_arrays(X, LABELS, **{"batch_size": 4, **options})
    with pytest.raises(InputError, match="as many labels as examples"):
        Stream.of_arrays(X, LABELS[:-1], batch_size=4)


class Source:
    """A generator of batches that records what is asked of it, and by which thread."""

    def __init__(self, length: int):
        self.length = length
        self.changed = threading.Condition()
        self.asked, self.threads, self.is_closed = 0, set(), False

    def items(self, epoch: int):
        try:
            for number in range(self.length):
                with self.changed:
                    self.asked += 1
                    self.threads.add(threading.get_ident())
                    self.changed.notify_all()
                yield np.full((2, 1), number), np.zeros(2)
        finally:
            self.threads.add(threading.get_ident())
            self.is_closed = True

    def wait_until_asked(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked >= count, timeout=10)


def number_in(batch: Batch) -> int:
    return int(batch.x[0, 0])


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("functional_nn stream")]


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_it_reads_ahead_and_no_further(ahead):
    source = Source(10)
    with StreamReader(Stream(source.items, ahead=ahead)) as reader:
        assert number_in(reader.first) == 0
        assert source.asked == 1
        with reader.epoch(1, number_in) as taken:
            for used in range(8):
                assert next(taken) == used
                # The batches that were used, and those ahead of them, are read while nobody waits for them.
                expected = min(used + 1 + ahead, 10)
                source.wait_until_asked(expected)
                time.sleep(0.005)
                assert source.asked == expected
            assert list(taken) == [8, 9]
        assert source.is_closed
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads
    assert not reading_threads()


def test_the_end_waits_for_a_batch_that_is_being_read():
    started, goes_on = threading.Event(), threading.Event()
    closed = []

    def items(epoch):
        try:
            yield np.zeros((2, 1)), np.zeros(2)
            started.set()
            goes_on.wait(10)
            yield np.zeros((2, 1)), np.zeros(2)
        finally:
            closed.append(True)

    with StreamReader(Stream(items)) as reader:
        assert number_in(reader.first) == 0
        with reader.epoch(1, number_in) as taken:
            assert next(taken) == 0
            started.wait(10)
            threading.Timer(0.02, goes_on.set).start()
        assert closed == [True]
    assert not reading_threads()


def test_the_thread_has_the_settings_of_jax_and_the_context_of_the_thread_that_reads():
    """NumPy keeps its settings for errors in the context."""
    variable = ContextVar("variable", default=0)
    device, found = jax.devices()[0], []

    def items(epoch):
        config = jax.config
        found.append((config.jax_enable_x64, config.jax_default_device, config.jax_default_prng_impl, variable.get()))
        yield np.zeros((2, 1)), np.zeros(2)

    variable.set(1)
    x64, on_device, prng = jax.enable_x64(True), jax.default_device(device), jax.default_prng_impl("rbg")
    with x64, on_device, prng, StreamReader(Stream(items)) as reader:
        assert number_in(reader.first) == 0
    assert found == [(True, device, "rbg", 1)]
