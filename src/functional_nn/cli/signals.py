"""Ctrl-C and SIGTERM while the command runs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

TWICE_BY_ONE_CAUSE = 1.0
"""Seconds in which a second signal counts as the first: ``timeout``, for one, sends each twice."""

SHOW_CURSOR = b"\x1b[?25h"


class Signals:
    """Until ``keep`` is called a signal ends the process at once, since there is nothing to lose.

    From then on it takes effect at the next ``check``, between two epochs, so that what was reached is written; a
    second one ends the process at once. No handler raises an exception: where one comes up inside an extension module
    the process aborts (JAX's, while being imported) or the exception is dropped (JAX's, in a callback).
    """

    def __init__(self):
        self._received: int | None = None
        self._time = 0.0
        self._kept = False

    def keep(self) -> None:
        """From now on there is something to lose."""
        self._kept = True

    def check(self) -> None:
        """Ends the epochs where a signal came."""
        if self._received is not None:
            raise KeyboardInterrupt

    @property
    def status(self) -> int:
        """The exit status that says which signal it was."""
        return 128 + (self._received or signal.SIGINT)

    def _handle(self, number, frame) -> None:
        if self._received is None and self._kept:
            self._received, self._time = number, time.monotonic()
            _say("\nStopping after this epoch; once more stops at once.\n")
        elif not self._kept or time.monotonic() - self._time > TWICE_BY_ONE_CAUSE:
            _say("\nStopped.\n")
            os._exit(128 + number)

    def __enter__(self) -> Signals:
        numbers = (signal.SIGINT, signal.SIGTERM)
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Writes to standard error past Python's buffer, which what was interrupted may be in the midst of."""
    with suppress(OSError):
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + text.encode())
