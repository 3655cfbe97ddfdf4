"""Handling of Ctrl-C during training, so that it is never lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interruption:
    """A context manager that remembers Ctrl-C, so that a loop stops even if its ``KeyboardInterrupt`` was ignored.

    Python raises ``KeyboardInterrupt`` in the function that happens to run. This may be a callback of the garbage
    collector (JAX has one), a destructor, or a function whose caller catches all exceptions. Then the exception is
    printed or ignored, and the loop goes on. So the signal is noted before the exception is raised, and ``check``
    raises it again in the loop.

    Only the main thread gets signals, so this does nothing in other threads. It also does nothing if another handler
    for Ctrl-C has been set.
    """

    def __init__(self):
        self._received, self._installed = False, False

    def __enter__(self) -> Interruption:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *exception: object) -> None:
        # Another handler may have been set in the meantime. It stays.
        if self._installed and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if Ctrl-C was pressed since the last call."""
        if self._received:
            self._received = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        raise KeyboardInterrupt
