"""The reader of a stream: it checks each batch, and reads the next ones while a step runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import jax

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown
from functional_nn.data.dataset import Split
from functional_nn.data.examples import as_numpy, check_examples, number_of_examples
from functional_nn.data.read_ahead import ReadAhead
from functional_nn.data.stream import Stream

Placed = TypeVar("Placed")


class Batch(NamedTuple):
    """One batch of a stream, as NumPy arrays."""

    x: PyTree
    labels: PyTree


class StreamReader:
    """Reads a stream epoch by epoch, and requires that every batch has the shapes and types of the first one.

    It is a context manager. At its end the iterator of the first batch is closed, and its thread has ended.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: Stream):
        self._stream = stream
        self._opened: ReadAhead[Batch] | None = None

    def __enter__(self) -> StreamReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close_opened()

    @cached_property
    def first(self) -> Batch:
        """The first batch of epoch 1. Its iterator stays open, because a generator gives each batch only once."""
        self._opened = ReadAhead(self._batches(1, None), self._stream.ahead)
        return self._opened.first()

    @cached_property
    def first_evaluated(self) -> dict[str, Batch]:
        """The first batch of each streamed part that is evaluated, by the name of the part."""
        first = {}
        for part in self._stream.streamed[1:]:
            with ReadAhead(self._evaluated_batches(part, None), self._stream.ahead) as reading:
                first[part] = reading.first()
        return first

    def split(self) -> Split:
        """The stream as a split. A part that is streamed has the examples of its first batch."""
        stream = self._stream
        split = Split(*self.first, stream.test_x, stream.test_labels, stream.validation_x, stream.validation_labels)
        for part, batch in self.first_evaluated.items():
            split = split._replace(**{f"{part}_x": batch.x, f"{part}_labels": batch.labels})
        return split

    @contextmanager
    def epoch(self, number: int, place: Callable[[Batch], Placed]) -> Generator[Iterator[Placed], None, None]:
        """A context with the batches of an epoch, each after ``place``; ``number`` counts from 1."""
        # The iterator that the first batch came from serves epoch 1 only. If it is a generator, which gives each batch
        # once, it serves the first epoch that is read.
        if number != 1 and not self._stream.is_generator:
            self._close_opened()
        if self._opened is None:
            with ReadAhead(self._batches(number, self.first), self._stream.ahead) as reading:
                yield reading.rest(place)
            return
        with self._opened as reading:
            self._opened = None
            # The first batch is copied before the iterator is read on, which may use the same memory again.
            first = place(self.first)
            yield chain([first], reading.rest(place))

    @contextmanager
    def evaluated(self, part: str, place: Callable[[Batch], Placed]) -> Generator[Iterator[Placed], None, None]:
        """A context with all batches of a streamed part, ``"test"`` or ``"validation"``, each after ``place``."""
        with ReadAhead(self._evaluated_batches(part, self.first_evaluated[part]), self._stream.ahead) as reading:
            yield reading.rest(place)

    def _close_opened(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _batches(self, number: int, like: Batch | None) -> Generator[Batch, None, None]:
        """The batches of an epoch. They must be like the given batch; None: like the first of them."""
        read, expected = 0, self._stream.steps or 1
        source = self._stream.epoch(number)
        try:
            for pair in islice(source, self._stream.steps):
                read += 1
                batch = _checked_batch("batches", pair, f"epoch {number}, batch {read}", like)
                like = like or batch
                yield batch
            if like is None:
                raise InputError("batches", f"at least one batch in epoch {number}", "none")
            if read < expected:
                raise InputError("batches", f"at least {expected} in epoch {number}", read)
        finally:
            # There may be more batches than steps, or the epoch ends early. What a function returned is closed, but a
            # generator of the user may be read on.
            if not self._stream.is_generator:
                _close(source)

    def _evaluated_batches(self, part: str, like: Batch | None) -> Generator[Batch, None, None]:
        """All batches of a part that is evaluated. The last one may be smaller than the given batch."""
        read, is_last = 0, False
        source = self._stream.evaluated(part)
        try:
            for pair in source:
                read += 1
                batch = _checked_batch(part, pair, f"batch {read}", like, may_be_smaller=True)
                like = like or batch
                if is_last:
                    expected = f"{number_of_examples(like.x)} examples, because another batch follows"
                    raise InputError(f"{part}: batch {read - 1}", expected, "fewer")
                is_last = number_of_examples(batch.x) < number_of_examples(like.x)
                yield batch
            if not read:
                raise InputError(part, "at least one batch", "none")
        except BaseException:
            _close(source)
            raise


def _close(source: Iterator[object]) -> None:
    """Closes an iterator that may be left before its end, if it can be closed, as a generator can."""
    close = getattr(source, "close", None)
    if callable(close):
        close()


def _array_types(batch: Batch) -> str:
    """The shapes and types of a batch in words."""
    x, labels = (jax.tree.map(shown, part) for part in batch)
    return f"x {x}, labels {labels}"


def _checked_batch(
    argument: str, pair: object, place: str, like: Batch | None, *, may_be_smaller: bool = False
) -> Batch:
    """Converts a pair to a batch. The pair may be a list, since PyTorch's loaders return lists.

    Args:
        argument: the name of the stream in messages.
        pair: the examples and their labels.
        place: the place of the pair in the stream, in words.
        like: the batch whose shapes and types this one must have; None for any.
        may_be_smaller: whether it may have fewer examples.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(f"{argument}: {place}", "a pair (x, labels)", shown(pair))
    batch = Batch(
        *(as_numpy(f"{argument}: {place}: {name}", part) for name, part in zip(Batch._fields, pair, strict=True))
    )
    check_examples(f"{argument}: {place}", *batch)
    if like is None:
        return batch
    expected, remedy = like, "Leave out a smaller last batch, or pad it."
    if may_be_smaller:
        expected = jax.tree.map(lambda array: array[: number_of_examples(batch.x)], like)
        remedy = "Only the last may have fewer examples."
    if _array_types(batch) != _array_types(expected):
        remedy = f"Every batch needs the shape of the first one. {remedy}"
        raise InputError(f"{argument}: {place}", _array_types(like), _array_types(batch), remedy)
    return batch
