"""Ctrl-C and SIGTERM while the command runs, or while processes train together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

from functional_nn.core.errors import REPEAT_SECONDS

SHOW_CURSOR = b"\x1b[?25h"
"""Shows the cursor again, which the progress bar hides. After ``os._exit`` nothing else would do it."""

REMOVALS: list[Callable[[], object]] = []
"""What removes the temporary files and folders that exist at the moment, for a signal that ends the process at once."""


@contextmanager
def removed_by_signals(remove: Callable[[], object]) -> Iterator[None]:
    """Calls ``remove`` if a signal ends the process inside the context, where no ``finally`` is reached."""
    REMOVALS.append(remove)
    try:
        yield
    finally:
        REMOVALS.remove(remove)


class Signals:
    """Handlers of signals, as a context manager.

    At first a signal ends the process at once, since there is nothing to lose. After ``defer`` was called, a signal
    takes effect at the next ``check``, such as between two epochs, so that results are written. A second signal then
    ends the process at once.

    Args:
        numbers: those of the signals.

    The handlers raise no exception. An exception inside an extension module would abort the process (in JAX, while it
    is imported) or would be dropped (in JAX, in a callback).
    """

    def __init__(self, *numbers: int):
        # A signal that was ignored before, as by nohup, stays ignored.
        self._numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._received: int | None = None
        self._time = 0.0
        self._until = ""

    def defer(self, until: str = "epoch") -> None:
        """Lets a signal take effect only at the next ``check``, which comes when this ``epoch`` has ended."""
        self._until = until

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if a signal came."""
        if self._received is not None:
            raise KeyboardInterrupt

    @property
    def status(self) -> int:
        """The exit status for the signal that came: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self._received or signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._until and not self._time:
            self._received, self._time = number, time.monotonic()
            _say(f"\nStopping after this {self._until}; once more stops at once.\n")
        elif not self._until or time.monotonic() - self._time > REPEAT_SECONDS:
            for remove in list(REMOVALS):
                with suppress(OSError):
                    remove()
            _say("\nStopped.\n")
            # sys.exit would raise an exception here, which the handlers must not do.
            os._exit(128 + number)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self._numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            # Another handler may have been set in the meantime. It stays.
            if signal.getsignal(number) == self._handle:
                # A handler that was not set by Python is None here, and cannot be set again.
                signal.signal(number, before or signal.SIG_DFL)


def _say(text: str) -> None:
    """Writes to standard error without Python's buffer, since the signal may have interrupted a write to it."""
    with suppress(OSError):
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + text.encode())
