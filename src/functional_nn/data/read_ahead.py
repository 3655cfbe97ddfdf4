"""An iterator that is read in a thread of its own, a few items before they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from functional_nn.core.thread_settings import settings_of_this_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

END = object()
"""What the thread gives in place of an item when there is none left."""


class _Answer(NamedTuple):
    """An item, or the exception that was raised in its place."""

    item: object
    error: BaseException | None = None


class ReadAhead(Generic[Item]):
    """Reads a generator in a thread, at most ``ahead`` items before they are needed.

    All code of the generator runs in this one thread. The thread reads nothing until it is asked: ``first`` asks for
    one item, and ``rest`` keeps ``ahead`` requests open. A request carries the function that prepares the item, which
    the thread calls, too. So no more than ``ahead`` items are read and not yet used.

    It is a context manager: at its end the generator is closed, and the thread has ended. If an item is being read at
    this moment, the end waits for it.

    Args:
        items: the generator. It must not be read elsewhere.
        ahead: the number of items. 0 starts no thread: each item is read when it is needed.
    """

    def __init__(self, items: Generator[Item, None, None], ahead: int):
        self._items = items
        self._ahead = ahead
        self._requests: SimpleQueue[Callable[[Item], object] | None] = SimpleQueue()
        self._answers: SimpleQueue[_Answer] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ReadAhead[Item]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def first(self) -> Item:
        """The first item; the generator must have one. Nothing is read after it until ``rest`` is called."""
        self._ask(lambda item: item)
        return self._take()

    def rest(self, prepare: Callable[[Item], Result]) -> Iterator[Result]:
        """The items that are left, each after ``prepare``. Reading begins at once."""
        for _ in range(max(self._ahead, 1)):
            self._ask(prepare)

        def taken() -> Iterator[Result]:
            while (item := self._take()) is not END:
                self._ask(prepare)  # this item makes room for another one
                yield item

        return taken()

    def close(self) -> None:
        """Closes the generator and waits for the end of the thread. It may be called again."""
        try:
            while True:
                self._requests.get_nowait()
        except Empty:
            self._requests.put(None)
        if self._thread is None:
            self._items.close()
        elif self._thread.is_alive():
            self._thread.join()

    def _ask(self, prepare: Callable[[Item], object]) -> None:
        if self._ahead and self._thread is None:
            settings, context = settings_of_this_thread(), copy_context()

            def read() -> None:
                with settings():
                    while self._answer():
                        pass

            # If the user has no patience with an item that never comes, and presses Ctrl-C again while it is awaited, a
            # daemon lets the process end.
            self._thread = threading.Thread(target=context.run, args=(read,), name="functional_nn stream", daemon=True)
            self._thread.start()
        self._requests.put(prepare)

    def _take(self) -> Any:
        """Waits for an answer: an item after its function, or ``END``. Raises the exception that came in its place."""
        if self._thread is None:
            self._answer()
        answer = self._answers.get()
        if answer.error is not None:
            raise answer.error  # with the traceback of the place where it was raised
        return answer.item

    def _answer(self) -> bool:
        """Answers one request; returns whether others may follow."""
        prepare = self._requests.get()
        if prepare is None:
            self._items.close()
            return False
        try:
            item: Any = next(self._items, END)
            self._answers.put(_Answer(END if item is END else prepare(item)))
        except BaseException as error:  # raised again where the item is needed
            self._answers.put(_Answer(END, error))
        return True
