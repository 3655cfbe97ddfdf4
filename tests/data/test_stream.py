"""Streams of arrays: each example once in an epoch, in an order of its own, and divided among processes."""

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.data import Stream

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
    assert "batches in each epoch; test examples " in repr(stream)
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
        ({"part": (1, 48)}, "part: expected at most 47 parts, the number of examples, got 48 parts"),
        ({"part": 2}, "number of the part, from 1 to n"),
        ({"seed": -1}, "seed: expected an integer not below 0"),
    ],
)
def test_wrong_arguments_of_arrays(options, message):
    with pytest.raises(InputError, match=message):
        Stream.of_arrays(X, LABELS, **{"batch_size": 4, **options})
    with pytest.raises(InputError, match="as many labels as examples"):
        Stream.of_arrays(X, LABELS[:-1], batch_size=4)
