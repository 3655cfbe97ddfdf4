"""Handling of Ctrl-C during training, so that it is never lost; with several processes, also of SIGTERM."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import jax

from functional_nn.training.processes import Processes


class Interruption:
    """A context manager that remembers Ctrl-C, so that a loop stops even if its ``KeyboardInterrupt`` was ignored.

    Python raises ``KeyboardInterrupt`` in the function that happens to run. This may be a callback of the garbage
    collector (JAX has one), a destructor, or a function whose caller catches all exceptions. Then the exception is
    printed or ignored, and the loop goes on. So the signal is noted before the exception is raised, and ``check``
    raises it again in the loop.

    Only the main thread gets signals, so this does nothing in other threads. It also does nothing if another handler
    for Ctrl-C has been set.

    If several processes train together, they have to stop after the same epoch. So the signal is only noted, and
    ``check`` raises ``KeyboardInterrupt`` in all of them if one has got it. It does the same for SIGTERM, by which a
    cluster says that it needs a machine: ``jax.distributed`` notes that signal.
    """

    def __init__(self, processes: Processes):
        self._processes = processes
        self._received, self._installed = False, False
        self._checks = 0

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
        """Raises ``KeyboardInterrupt`` if Ctrl-C was pressed since the last call.

        With several processes it has to be called in all of them, after the same epochs.
        """
        if self._processes.any(self._received) or self._is_machine_needed():
            self._received = False
            raise KeyboardInterrupt

    def _is_machine_needed(self) -> bool:
        """Whether a process has got SIGTERM. Then ``jax.distributed`` chooses one check, which is the same in all."""
        # The service may be switched off, with jax_enable_preemption_service. Then SIGTERM ends the process.
        if not self._processes.are_several or not getattr(jax.config, "jax_enable_preemption_service", True):
            return False
        from jax.experimental import multihost_utils

        self._checks += 1
        return multihost_utils.reached_preemption_sync_point(self._checks)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        if not self._processes.are_several:
            raise KeyboardInterrupt
