"""Streams of batches, for data that do not fit in memory or are made while training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeAlias

import jax
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_part, shown
from functional_nn.data.dataset import in_words
from functional_nn.data.examples import as_host_arrays, check_examples, number_of_examples

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
            needs ``steps``. A run that was stopped cannot continue with the same batches, and
            ``non_finite="roll-back"``, which reads an epoch again, is refused.
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
    >>> stream = Stream(batches, test=lambda: batches(0))
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
        if not callable(self.batches) and not isinstance(self.batches, Iterable):
            expected = "an iterable of pairs (x, labels), or a function of the epoch that returns one"
            raise InputError("batches", expected, shown(self.batches))
        if self.steps is not None:
            check_count("steps", self.steps)
        elif self.is_generator:
            remedy = "Or give a function that makes a new generator for each epoch."
            raise InputError("steps", "the number of batches in an epoch, because a generator ends once", None, remedy)
        for part in PARTS:
            self._check_evaluated(part)
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

        >>> stream = Stream.of_arrays(np.arange(10.0)[:, None], np.arange(10), batch_size=4, part=(1, 2))
        >>> [sorted(labels.tolist()) for _, labels in stream.epoch(1)]
        [[0, 2, 6, 8]]
        """
        x, labels = as_host_arrays("x", x), as_host_arrays("labels", labels)
        check_examples("x and labels", x, labels)
        check_count("seed", seed, least=0)
        number, parts = check_part("part", part)
        examples = number_of_examples(x)
        if parts > examples:
            raise InputError("part", f"at most {examples} parts, the number of examples", f"{parts} parts")
        # All parts must have the same number of batches, so the smallest part decides.
        least = examples // parts
        if check_count("batch_size", batch_size) > least:
            limit = f"at most {least:,}, the number of examples{' in a part' if parts > 1 else ''}"
            raise InputError("batch_size", limit, batch_size)
        steps = least // batch_size
        own = range(number - 1, examples, parts)

        def batches(epoch: int) -> Batches:
            order = np.random.default_rng((seed, epoch, number)).permutation(own)
            for rows in order[: steps * batch_size].reshape(steps, batch_size):
                yield jax.tree.map(itemgetter(rows), (x, labels))

        return cls(batches, steps, **options)

    def __repr__(self) -> str:
        if self.steps is not None:
            texts = [f"{self.steps:,} {'batch' if self.steps == 1 else 'batches'} in each epoch"]
        else:
            texts = ["batches until the iterable ends"]
        for part in PARTS:
            x, labels = getattr(self, f"{part}_x"), getattr(self, f"{part}_labels")
            if getattr(self, part) is not None:
                texts.append(f"{part} examples in batches")
            elif x is not None:
                texts.append(f"{part} examples {in_words(x)}, labels {in_words(labels)}")
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
        batches = self.batches(number) if callable(self.batches) else self.batches
        if not isinstance(batches, Iterable):
            raise InputError("batches", "a function that returns an iterable of pairs (x, labels)", shown(batches))
        return iter(batches)

    def evaluated(self, part: str) -> Iterator[tuple[PyTree, PyTree]]:
        """The batches of a streamed part, ``"test"`` or ``"validation"``, from its start."""
        given = getattr(self, part)
        batches = given() if callable(given) else given
        if not isinstance(batches, Iterable):
            raise InputError(part, "a function that returns an iterable of pairs (x, labels)", shown(batches))
        return iter(batches)

    def _check_evaluated(self, part: str) -> None:
        given = getattr(self, part)
        if given is None:
            return
        expected = (
            "an iterable of pairs (x, labels) that starts again, or a function without arguments that returns one"
        )
        remedy = f"Arrays are given as {part}_x and {part}_labels."
        if isinstance(given, Iterator):
            remedy = "It is read once for each epoch, and a generator ends once. Give the function that makes it."
        if isinstance(given, Iterator) or not (callable(given) or isinstance(given, Iterable)):
            raise InputError(part, expected, shown(given), remedy)
        if any(getattr(self, name) is not None for name in (f"{part}_x", f"{part}_labels")):
            raise InputError(part, f"either {part} or {part}_x with {part}_labels", "both")
