"""Handling of Ctrl-C during training, so that it is never lost; with several processes, also of SIGTERM."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from functional_nn.training.processes import Processes


class Interruption:
    """A context manager that remembers Ctrl-C, so that a loop stops even if its ``KeyboardInterrupt`` was ignored.

    Python raises ``KeyboardInterrupt`` in the function that happens to run. This may be a callback of the garbage
    collector (JAX has one), a destructor, or a function whose caller catches all exceptions. Then the exception is
    printed or ignored, and the loop goes on. So the signal is noted before the exception is raised, and ``check``
    raises it again in the loop.

    Only the main thread gets signals, so this does nothing in other threads. It also does nothing if another handler
    for Ctrl-C has been set.

    If several processes train together, they have to stop after the same epoch. So a signal is only noted, whatever
    handler has been set, and ``check`` raises ``KeyboardInterrupt`` in all of them if one has got it. It does the same
    for SIGTERM, by which a cluster says that it needs a machine. A second Ctrl-C raises the exception at once.
    """

    def __init__(self, processes: Processes):
        self._processes = processes
        self._received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is not threading.main_thread():
            return self
        if self._processes.are_several:
            handled = [signal.SIGINT, signal.SIGTERM]
        else:
            handled = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        self._before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            # Another handler may have been set in the meantime. It stays.
            if signal.getsignal(number) == self._handle:
                # The handler of a library that is not written in Python is None here, and cannot be set again.
                signal.signal(number, signal.SIG_DFL if before is None else before)  # pyright: ignore[reportArgumentType]

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if Ctrl-C was pressed since the last call.

        With several processes it has to be called in all of them, after the same epochs. The exception has the name of
        the signal if it was SIGTERM.
        """
        received = self._processes.largest(self._received)
        self._received = 0
        if received:
            raise KeyboardInterrupt(*(["SIGTERM"] if received == signal.SIGTERM else []))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second = self._received == number == signal.SIGINT
        self._received = number
        if is_second or not self._processes.are_several:
            raise KeyboardInterrupt
