"""Streams of batches, for training data that do not fit in memory or are made while training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple, TypeAlias

import jax

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, shown
from functional_nn.data.dataset import Split
from functional_nn.data.examples import as_numpy, check_examples

Batches: TypeAlias = Iterable[tuple[PyTree, PyTree]]
"""Pairs of examples and labels."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Training data that come batch by batch, with optional test and validation examples in memory.

    All batches have one shape. Each is copied to the device while the previous step still runs. They are used in
    the order of the stream: nothing is shuffled.

    Args:
        batches: a function of the epoch's number, from 1, that returns an iterable of pairs ``(x, labels)``. It may
            also be the iterable itself: a list, a PyTorch ``DataLoader``, ``tf.data.Dataset.as_numpy_iterator``, or a
            generator. A list or a loader starts again in every epoch. A generator continues where it stopped, so it
            needs ``steps``. A run that was stopped cannot continue with the same batches, and
            ``non_finite="roll-back"``, which reads an epoch again, is refused.
        steps: the number of batches in an epoch. If it is None, an epoch ends where the iterable ends. A run that
            continues from a train state needs it if ``batches`` is a function.
        test_x, test_labels: the test examples, as in a ``Split``.
        validation_x, validation_labels: the validation examples, as in a ``Split``.

    >>> import numpy as np
    >>> def batches(epoch):
    ...     random = np.random.default_rng(epoch)
    ...     for _ in range(20):
    ...         x = random.normal(size=(32, 3)).astype(np.float32)
    ...         yield x, x.sum(1, keepdims=True)
    >>> import functional_nn as fnn, optax
    >>> run = fnn.fit(fnn.dense(1), fnn.mean_squared_error, optax.adam(0.1), Stream(batches), epochs=10)
    >>> run.history[-1].train_loss < 0.01
    True
    """

    batches: Callable[[int], Batches] | Batches
    steps: int | None = None
    test_x: PyTree = None
    test_labels: PyTree = None
    validation_x: PyTree = None
    validation_labels: PyTree = None

    def __post_init__(self):
        if not callable(self.batches) and not isinstance(self.batches, Iterable):
            expected = "an iterable of pairs (x, labels), or a function of the epoch that returns one"
            raise InputError("batches", expected, shown(self.batches))
        if self.steps is not None:
            check_count("steps", self.steps)
        elif self.is_generator:
            remedy = "Or give a function that makes a new generator for each epoch."
            raise InputError("steps", "the number of batches in an epoch, because a generator ends once", None, remedy)

    @property
    def is_generator(self) -> bool:
        """Whether the batches are a generator or another iterator, which gives each of them only once."""
        return isinstance(self.batches, Iterator)

    def epoch(self, number: int) -> Iterator[tuple[PyTree, PyTree]]:
        """The batches of an epoch as they come; ``number`` counts from 1."""
        batches = self.batches(number) if callable(self.batches) else self.batches
        if not isinstance(batches, Iterable):
            raise InputError("batches", "a function that returns an iterable of pairs (x, labels)", shown(batches))
        return islice(batches, self.steps)


class Batch(NamedTuple):
    """One batch of a stream, as NumPy arrays."""

    x: PyTree
    labels: PyTree


class StreamReader:
    """Reads a stream epoch by epoch, and requires that every batch has the shapes and types of the first one.

    Args:
        stream: the stream.
        epoch: the number of the first epoch, from 1.
    """

    def __init__(self, stream: Stream, epoch: int = 1):
        self._stream = stream
        self._opened_epoch = epoch
        opened = stream.epoch(epoch)
        first = next(opened, None)
        if first is None:
            raise InputError("batches", f"at least one batch in epoch {epoch}", "none")
        self.first = _checked_batch(first, f"epoch {epoch}, batch 1")
        # The first batch is put back, because a generator gives it only once.
        self._opened: Iterator[object] | None = chain([first], opened)
        self._types = _array_types(self.first)

    def split(self) -> Split:
        """The first batch as the training part of a split, with the stream's test and validation examples."""
        stream = self._stream
        return Split(*self.first, stream.test_x, stream.test_labels, stream.validation_x, stream.validation_labels)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch; ``number`` counts from 1."""
        # The iterator that the first batch came from serves its own epoch only. If it is a generator, which gives each
        # batch once, it serves the first epoch that is read.
        opened, self._opened = self._opened, None
        if opened is None or (number != self._opened_epoch and not self._stream.is_generator):
            opened = self._stream.epoch(number)
        read = 0
        for pair in opened:
            read += 1
            place = f"epoch {number}, batch {read}"
            batch = _checked_batch(pair, place)
            if _array_types(batch) != self._types:
                remedy = "Every batch needs the shape of the first one. Leave out a smaller last batch, or pad it."
                raise InputError(f"batches: {place}", self._types, _array_types(batch), remedy)
            yield batch
        expected = self._stream.steps or 1
        if read < expected:
            raise InputError("batches", f"at least {expected} in epoch {number}", read)


def _array_types(batch: Batch) -> str:
    """The shapes and types of a batch in words."""
    x, labels = (jax.tree.map(shown, part) for part in batch)
    return f"x {x}, labels {labels}"


def _checked_batch(pair: object, place: str) -> Batch:
    """Converts a pair to a batch. The pair may be a list, since PyTorch's loaders return lists."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(f"batches: {place}", "a pair (x, labels)", shown(pair))
    batch = Batch(
        *(as_numpy(f"batches: {place}: {name}", part) for name, part in zip(Batch._fields, pair, strict=True))
    )
    check_examples(f"batches: {place}", *batch)
    return batch
