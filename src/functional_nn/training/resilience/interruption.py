"""Handling of Ctrl-C during training, so that it is never lost; with several processes, also of SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from functional_nn.core.errors import REPEAT_SECONDS
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
    for SIGTERM, by which a cluster says that it needs a machine. A second signal ends the process at once, and the
    others notice that it is lost. A signal that was ignored before stays ignored.
    """

    def __init__(self, processes: Processes):
        self._processes = processes
        self._received, self._time = 0, 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is not threading.main_thread():
            return self
        if self._processes.are_several:
            both = (signal.SIGINT, signal.SIGTERM)
            handled = [number for number in both if signal.getsignal(number) != signal.SIG_IGN]
        else:
            handled = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        self._before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *exception: object) -> None:
        # The loop has dealt with every signal. A later ``check``, in the last evaluation, must not raise it again.
        self._received = 0
        for number, before in self._before.items():
            # Another handler may have been set in the meantime. It stays.
            if signal.getsignal(number) == self._handle:
                # A handler that was not set by Python may be None here, and cannot be set again.
                signal.signal(number, signal.SIG_DFL if before is None else before)  # pyright: ignore[reportArgumentType]

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if Ctrl-C was pressed since the last call.

        With several processes it has to be called in all of them, after the same epochs. The exception has the name of
        the signal if it was SIGTERM.
        """
        # A signal that comes while the processes wait for each other is kept for the next call.
        mine, self._received = self._received, 0
        received = self._processes.largest(mine)
        if received:
            raise KeyboardInterrupt(*([signal.SIGTERM.name] if received == signal.SIGTERM else []))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._processes.are_several:
            self._received = number
            raise KeyboardInterrupt
        # An exception would leave the others waiting, in a step that this process does not take.
        if self._time and time.monotonic() - self._time > REPEAT_SECONDS:
            os._exit(128 + number)
        self._received, self._time = number, time.monotonic()
        os.write(2, b"\nStopping all processes after this epoch; once more stops at once.\n")
