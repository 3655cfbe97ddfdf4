"""Ctrl-C that is never lost while models are trained."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Remembers Ctrl-C, so that a loop hears it even where its ``KeyboardInterrupt`` was dropped.

    Python raises ``KeyboardInterrupt`` in whatever function happens to run. Where that is a callback of the garbage
    collector (JAX has one), a destructor, or a function whose caller catches everything, the exception is printed or
    ignored and the loop goes on. As a context manager this class notes the signal before the exception is raised;
    ``check`` raises it again at a place where nobody drops it.

    Only the main thread gets signals, and a handler that somebody else has set stays: elsewhere this does nothing.
    """

    def __init__(self):
        self._received, self._installed = False, False

    def __enter__(self) -> Interruption:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *exception: Any) -> None:
        # Somebody may have set another handler meanwhile, which is theirs to keep.
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
