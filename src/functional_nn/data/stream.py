"""Streams of batches, for data that do not fit in memory or are made while training runs.

The reader of a stream checks each batch. It reads the next ones in a thread of its own while a step runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np

from functional_nn.core.errors import InputError, check, shown
from functional_nn.core.functions import settings_of_this_thread
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_part
from functional_nn.data.dataset import Split
from functional_nn.data.preparation import as_numpy, check_examples, number_of_examples

Batches: TypeAlias = Iterable[tuple[PyTree, PyTree]]
"""Pairs of examples and labels."""

PARTS = ("test", "validation")
"""The parts of the data that are evaluated. Each is a stream of its own, or arrays."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Training data that come batch by batch, with optional test and validation examples.

    All batches have one shape. They are used in the order of the stream: nothing is shuffled. While a step runs, the
    next batches are read in a thread and copied to the device.

    Args:
        batches: a function of the epoch's number, from 1, that returns an iterable of pairs ``(x, labels)``. It may
            also be the iterable itself: a list, a PyTorch ``DataLoader``, ``tf.data.Dataset.as_numpy_iterator``, or a
            generator. A list or a loader starts again in every epoch. A generator continues where it stopped, so it
            needs ``steps``. A run that was stopped cannot continue with the same batches.
        steps: the number of batches in an epoch. If it is None, an epoch ends where the iterable ends. A run that
            continues from a train state needs it if ``batches`` is a function.
        test_x, test_labels: the test examples in memory, as in a ``Split``.
        validation_x, validation_labels: the validation examples in memory, as in a ``Split``.
        test: in place of ``test_x`` and ``test_labels``, test examples that come batch by batch: an iterable of pairs
            that starts again each time it is read, or a function without arguments that returns one. The last batch may
            be smaller than the others. The metrics are those of all examples, as for arrays.
        validation: validation examples that come batch by batch, like ``test``.
        ahead: the largest number of batches that are read before they are needed. They are kept in memory, besides the
            first batch and those of the last two steps. 0 reads each batch when it is needed, in the thread that called
            ``fit``, for an iterable that only this thread may use.

    >>> import numpy as np
    >>> def batches(epoch):
    ...     random = np.random.default_rng(epoch)
    ...     for _ in range(20):
    ...         x = random.normal(size=(32, 3)).astype(np.float32)
    ...         yield x, x.sum(1, keepdims=True)
    >>> import functional_nn as fnn, optax
    >>> stream = fnn.data.Stream(batches, test=lambda: batches(0))
    >>> run = fnn.fit(fnn.dense(1), fnn.mean_squared_error, optax.adam(0.1), stream, epochs=10)
    >>> run.history[-1].train_loss < 0.01, run.history[-1].test_loss < 0.01
    (True, True)
    """

    batches: Callable[[int], Batches] | Batches
    steps: int | None = None
    test_x: PyTree = None
    test_labels: PyTree = None
    validation_x: PyTree = None
    validation_labels: PyTree = None
    test: Callable[[], Batches] | Batches | None = None
    validation: Callable[[], Batches] | Batches | None = None
    ahead: int = 2

    def __post_init__(self):
        expected = "an iterable of pairs (x, labels), or a function of the epoch that returns one"
        check("batches", self.batches, expected, callable(self.batches) or isinstance(self.batches, Iterable))
        if self.steps is not None:
            check_count("steps", self.steps)
        remedy = "Or give a function that makes a new generator for each epoch."
        expected = "the number of batches in an epoch, because a generator ends once"
        check("steps", self.steps, expected, self.steps is not None or not self.is_generator, remedy)
        for part in self.streamed[1:]:
            given, arrays = getattr(self, part), (getattr(self, f"{part}_x"), getattr(self, f"{part}_labels"))
            check(part, arrays, f"either {part} or {part}_x with {part}_labels", all(array is None for array in arrays))
            expected = "an iterable of pairs (x, labels) that starts again, or a function that returns one"
            is_known = callable(given) or (isinstance(given, Iterable) and not isinstance(given, Iterator))
            remedy = f"Arrays are {part}_x and {part}_labels. A generator ends once: give the function that makes it."
            check(part, given, expected, is_known, remedy)
        check_count("ahead", self.ahead, least=0)

    @classmethod
    def of_arrays(
        cls,
        x: PyTree,
        labels: PyTree,
        *,
        batch_size: int,
        seed: int = 0,
        part: tuple[int, int] = (1, 1),
        **options: PyTree,
    ) -> Stream:
        """Batches of the rows of arrays, in a new random order for each epoch.

        Only the rows of a batch are read at a time. So the arrays may be larger than the memory if they are files:
        ``numpy.load("images.npy", mmap_mode="r")``.

        With ``part=(k, n)``, only every n-th example is read, from the k-th. So n processes can divide the examples:
        each reads and shuffles its own part, and gives ``(jax.process_index() + 1, jax.process_count())``. All parts
        have the same number of batches. The order differs from that of one process, so the results differ by more than
        rounding.

        Args:
            x, labels: arrays, or pytrees of arrays, with examples along axis 0.
            batch_size: the number of examples in a batch, in each process. Those that are left over at the end of an
                epoch are left out: at most ``batch_size`` in each part. Each epoch leaves out different ones.
            seed: decides the order, together with the number of the epoch and of the part.
            part: the number of the part, from 1, and the number of parts.
            options: what else ``Stream`` takes, such as ``test``, but not ``steps``, which follows from the numbers.

        >>> import functional_nn as fnn, numpy as np
        >>> stream = fnn.data.Stream.of_arrays(np.arange(10.0)[:, None], np.arange(10), batch_size=4, part=(1, 2))
        >>> [sorted(labels.tolist()) for _, labels in stream.epoch(1)]
        [[0, 2, 6, 8]]
        """
        x, labels = as_numpy("x", x, in_types_of_jax=False), as_numpy("labels", labels, in_types_of_jax=False)
        check_examples("x and labels", x, labels)
        check_count("seed", seed, least=0)
        number, parts = check_part("part", part)
        examples = number_of_examples(x)
        check("part", part, f"at most {examples} parts, the number of examples", parts <= examples)
        # All parts must have the same number of batches, so the smallest part decides.
        least = examples // parts
        limit = f"at most {least:,}, the number of examples{' in a part' if parts > 1 else ''}"
        check("batch_size", batch_size, limit, check_count("batch_size", batch_size) <= least)
        steps = least // batch_size
        own = range(number - 1, examples, parts)

        def batches(epoch: int) -> Batches:
            order = np.random.default_rng((seed, epoch, number)).permutation(own)
            for rows in order[: steps * batch_size].reshape(steps, batch_size):
                yield jax.tree.map(itemgetter(rows), (x, labels))

        return cls(batches, steps, **options)

    def __repr__(self) -> str:
        texts = ["batches until the iterable ends" if self.steps is None else f"batches, {self.steps:,} in each epoch"]
        for part in PARTS:
            x, labels = getattr(self, f"{part}_x"), getattr(self, f"{part}_labels")
            if getattr(self, part) is not None:
                texts.append(f"{part} examples in batches")
            elif x is not None:
                texts.append(f"{part} examples {shown(x)}, labels {shown(labels)}")
        return f"<Stream: {'; '.join(texts)}>"

    @property
    def is_generator(self) -> bool:
        """Whether the batches are a generator or another iterator, which gives each of them only once."""
        return isinstance(self.batches, Iterator)

    @property
    def streamed(self) -> tuple[str, ...]:
        """The parts of the data that come batch by batch."""
        return "train", *(part for part in PARTS if getattr(self, part) is not None)

    def epoch(self, number: int) -> Iterator[tuple[PyTree, PyTree]]:
        """The batches of an epoch as they come; ``number`` counts from 1. There may be more of them than ``steps``."""
        return _started("batches", self.batches, number)

    def evaluated(self, part: str) -> Iterator[tuple[PyTree, PyTree]]:
        """The batches of a streamed part, ``"test"`` or ``"validation"``, from its start."""
        return _started(part, getattr(self, part))


def _started(argument: str, given: Callable[..., Batches] | Batches, *number: int) -> Iterator[tuple[PyTree, PyTree]]:
    batches = given(*number) if callable(given) else given
    expected = "a function that returns an iterable of pairs (x, labels)"
    check(argument, batches, expected, isinstance(batches, Iterable))
    return iter(batches)


Placed = TypeVar("Placed")

END = object()
"""Marks the end of the batches."""


class Batch(NamedTuple):
    """One batch of a stream, as NumPy arrays."""

    x: PyTree
    labels: PyTree


class StreamReader:
    """Reads a stream epoch by epoch, and requires that every batch has the shapes and types of the first one.

    All code of the stream runs in one thread, which reads no more than ``ahead`` batches that are not used yet, and
    copies them to the device. With 0 there is no thread: each batch is read when it is needed.

    It is a context manager. At its end all iterators are closed, and the thread has ended. If a batch is being read at
    this moment, the end waits for it.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: Stream):
        self._stream = stream
        self._opened: Generator[Batch, None, None] | None = None
        self._context = copy_context()
        self._thread = ThreadPoolExecutor(1, "functional_nn stream", settings_of_this_thread())

    def __enter__(self) -> StreamReader:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._thread:
            self._close_opened()

    @cached_property
    def first(self) -> Batch:
        """The first batch of epoch 1. Its iterator stays open, because a generator gives each batch only once."""
        self._opened = self._batches("batches", None, 1)
        return self._call(next, self._opened)

    @cached_property
    def first_evaluated(self) -> dict[str, Batch]:
        """The first batch of each streamed part that is evaluated, by the name of the part."""
        first = {}
        for part in self._stream.streamed[1:]:
            batches = self._batches(part, None)
            try:
                first[part] = self._call(next, batches)
            finally:
                self._call(batches.close)
        return first

    def split(self) -> Split:
        """The stream as a split. A part that is streamed has the examples of its first batch."""
        stream = self._stream
        split = Split(*self.first, stream.test_x, stream.test_labels, stream.validation_x, stream.validation_labels)
        for part, batch in self.first_evaluated.items():
            split = split._replace(**{f"{part}_x": batch.x, f"{part}_labels": batch.labels})
        return split

    def epoch(self, number: int, place: Callable[[Batch], Placed]) -> AbstractContextManager[Iterator[Placed]]:
        """A context with the batches of an epoch, each after ``place``; ``number`` counts from 1. Call ``first`` first.

        Reading begins at once, and the thread calls ``place``.
        """
        # The iterator that the first batch came from serves epoch 1 only. If it is a generator, which gives each batch
        # once, it serves the first epoch that is read.
        if number != 1 and not self._stream.is_generator:
            self._close_opened()
        if self._opened is None:
            return self._placed(self._batches("batches", self.first, number), place)
        # The first batch is copied before the iterator is read on, which may use the same memory again.
        first = place(self.first)
        opened, self._opened = self._opened, None
        return self._placed(opened, place, first)

    def evaluated(self, part: str, place: Callable[[Batch], Placed]) -> AbstractContextManager[Iterator[Placed]]:
        """A context with all batches of a streamed part, ``"test"`` or ``"validation"``, each after ``place``."""
        return self._placed(self._batches(part, self.first_evaluated[part]), place)

    @contextmanager
    def _placed(
        self, batches: Generator[Batch, None, None], place: Callable[[Batch], Placed], *first: Placed
    ) -> Iterator[Iterator[Placed]]:
        """A context with batches that were placed already, and those of a generator, which is closed at the end."""
        requests: deque[Future[Any]] = deque()

        def ask() -> None:
            requests.append(self._thread.submit(self._context.run, next, map(place, batches), END))

        def taken() -> Iterator[Placed]:
            # An exception that was raised in place of a batch has the traceback of the place where it was raised.
            while (batch := requests.popleft().result()) is not END:
                ask()  # this batch makes room for another one
                yield batch

        try:
            for _ in range(self._stream.ahead):
                ask()
            yield chain(first, taken() if requests else map(place, batches))
        finally:
            for request in requests:
                request.cancel()
            self._call(batches.close)

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """The result of a function that is called in the thread, if there is one."""
        if not self._stream.ahead:
            return function(*arguments)
        return self._thread.submit(self._context.run, function, *arguments).result()

    def _close_opened(self) -> None:
        if self._opened is not None:
            self._call(self._opened.close)
            self._opened = None

    def _batches(self, argument: str, like: Batch | None, *epoch: int) -> Generator[Batch, None, None]:
        """The batches of an epoch, or without one those of a part that is evaluated, whose last may be smaller.

        They must be like the given batch; None: like the first of them.
        """
        stream, is_training = self._stream, argument == "batches"
        source = stream.epoch(*epoch) if is_training else stream.evaluated(argument)
        steps = stream.steps if is_training else None
        before = "".join(f"epoch {number}, " for number in epoch)
        # There may be more batches than steps, or the epoch ends early. What a function returned is closed, but a
        # generator of the user may be read on.
        with ExitStack() as stack:
            if not (is_training and stream.is_generator):
                stack.callback(getattr(source, "close", lambda: None))
            read, last = 0, like
            for read, pair in enumerate(islice(source, steps), start=1):
                if like and last and number_of_examples(last.x) < number_of_examples(like.x):
                    expected = f"{number_of_examples(like.x)} examples, because another batch follows"
                    raise InputError(f"{argument}: batch {read - 1}", expected, "fewer")
                place = f"{argument}: {before}batch {read}"
                last = _checked_batch(pair, place, like, may_be_smaller=not is_training)
                like = like or last
                yield last
            check(f"{argument}: {before}number of batches", read, f"at least {steps or 1}", read >= (steps or 1))


def _array_types(batch: Batch) -> str:
    """The shapes and types of a batch in words."""
    x, labels = (jax.tree.map(shown, part) for part in batch)
    return f"x {x}, labels {labels}"


def _checked_batch(pair: Any, place: str, like: Batch | None, *, may_be_smaller: bool) -> Batch:
    """Converts a pair to a batch. The pair may be a list, since PyTorch's loaders return lists.

    Args:
        pair: the examples and their labels.
        place: the name of the stream and the place of the pair in it, in words.
        like: the batch whose shapes and types this one must have; None for any.
        may_be_smaller: whether it may have fewer examples.
    """
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    check(place, pair, "a pair (x, labels)", is_pair)
    batch = Batch(*(as_numpy(f"{place}: {name}", part) for name, part in zip(Batch._fields, pair, strict=True)))
    check_examples(place, *batch)
    if like is None:
        return batch
    expected, remedy = like, "Leave out a smaller last batch, or pad it."
    if may_be_smaller:
        expected = jax.tree.map(lambda array: array[: number_of_examples(batch.x)], like)
        remedy = "Only the last may have fewer examples."
    if _array_types(batch) != _array_types(expected):
        remedy = f"Every batch needs the shape of the first one. {remedy}"
        raise InputError(place, _array_types(like), _array_types(batch), remedy)
    return batch
