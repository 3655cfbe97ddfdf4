"""Several processes that train one network, and signals that interrupt a run."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import jax
import numpy as np

from functional_nn.core.errors import InputError, LostProcess, OtherProcessFailed, shortened
from functional_nn.core.signals import Signals
from functional_nn.storage.arrays import listed
from functional_nn.storage.files import JsonValue
from functional_nn.storage.identity import difference

Result = TypeVar("Result")
Item = TypeVar("Item")

GOING_ON, ENDED, FAILED = range(3)
"""The states of a process, in the order in which they count for all processes."""


class Processes:
    """What the processes of a run tell each other, outside of the compiled programs.

    Each method that sends something has to be called in all processes, in the same order, since every process waits for
    the others. With one process nothing is sent.

    Attributes:
        count: the number of processes.
        index: the number of this one, from 0. The first process, 0, reports and writes files.

    Raises:
        InputError: if the processes have different numbers of devices, with which JAX cannot exchange anything.
    """

    def __init__(self):
        self.count, self.index = jax.process_count(), jax.process_index()
        devices = Counter(device.process_index for device in jax.devices()) if self.are_several else {}
        others = [f"{count} in process {number}" for number, count in devices.items() if count != devices[0]]
        if others:
            given = f"{devices[0]} in process 0; {listed(others)}"
            raise InputError("devices", "the same number in every process", given)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reports and writes files."""
        return self.index == 0

    @property
    def are_several(self) -> bool:
        """Whether there are other processes."""
        return self.count > 1

    @contextmanager
    def noticing_loss(self) -> Iterator[None]:
        """Raises ``LostProcess`` in place of the error of JAX if the body cannot exchange numbers with the others."""
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            # Small programs raise a ValueError if Gloo, which sends numbers between CPUs, fails.
            if not self.are_several or (isinstance(error, ValueError) and "Gloo" not in str(error)):
                raise
            lost = LostProcess(f"{LostProcess.ADVICE} JAX says: {shortened(str(error))}")
            vars(lost).update(vars(error))  # fit gives an error the run that was reached
            raise lost from error

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return bool(self.largest(int(flag)))

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes give."""
        if not self.are_several:
            return number
        from jax.experimental import multihost_utils  # only several processes need it

        with self.noticing_loss():
            return int(multihost_utils.process_allgather(np.array([number], np.int32)).max())

    def in_step(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """The items of an iterator in each process, as long as all of them have one.

        Args:
            name: the name of the iterator, for errors.
            items: as many in every process.

        Raises:
            InputError: in all processes, if one has fewer items than another.
            Exception: what the iterator raises, in this process. The others raise ``OtherProcessFailed``.
        """
        if not self.are_several:
            yield from items
            return
        while True:
            item, failure, state = None, None, GOING_ON
            try:
                item = next(items)
            except StopIteration:
                state = ENDED
            except Exception as error:
                failure = error
            if self._furthest(state, failure, f"Another process could not read its next item of {name}.") == ENDED:
                if self.any(state == GOING_ON):
                    raise InputError(name, "as many in every process", "more of them in one process than in another")
                return
            yield item  # pyright: ignore[reportReturnType]

    @contextmanager
    def all_succeeding(self) -> Iterator[None]:
        """If the body fails in one process, it fails in all.

        Raises:
            Exception: what the body raises, in this process. The others raise ``OtherProcessFailed``.
        """
        if not self.are_several:
            yield
            return
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        self._furthest(GOING_ON, failure, "Another process could not begin. Its own message says why.")

    def _furthest(self, state: int, failure: Exception | None, message: str) -> int:
        """The furthest state of all processes. A failure is raised here, and in the others with a message."""
        furthest = self.largest(state if failure is None else FAILED)
        if failure is not None:
            raise failure
        if furthest == FAILED:
            raise OtherProcessFailed(message)
        return furthest

    def first(self, action: Callable[[], Result]) -> Result | None:
        """Lets the first process alone do something; returns the result there, and None in the others.

        Raises:
            Exception: what ``action`` raises, in the first process.
            OtherProcessFailed: in the others, with the message of that exception. After Ctrl-C they raise
                ``KeyboardInterrupt``, too.
        """
        if not self.are_several:
            return action()
        result, failure = None, None
        if self.is_first:
            # The others wait for an answer, so they must hear of every kind of failure, also of Ctrl-C.
            try:
                result = action()
            except BaseException as error:
                failure = error
        told = "" if failure is None else f"{type(failure).__name__}: {failure}"
        message = self.bytes_from_first(told.encode(errors="replace"))
        if failure is not None:
            raise failure
        if message:
            text = message.decode()
            if text.startswith(KeyboardInterrupt.__name__):
                raise KeyboardInterrupt
            raise OtherProcessFailed(f"The run ended in its first process. {text}")
        return result

    def bytes_from_first(self, contents: bytes) -> bytes:
        """The bytes that the first process gives; what the others give does not matter."""
        if not self.are_several:
            return contents
        from jax.experimental import multihost_utils

        with self.noticing_loss():
            # All have to give arrays of one size, which the others do not know yet. JAX's integers have 32 bits.
            high, low = multihost_utils.broadcast_one_to_all(np.array(divmod(len(contents), 2**30), np.int32))
            size = int(high) * 2**30 + int(low)
            sent = np.zeros(size, np.uint8)
            if self.is_first:
                sent[:] = np.frombuffer(contents, np.uint8)
            return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes() if size else b""

    def bytes_from_all(self, contents: bytes, size: int | None = None) -> list[bytes]:
        """The bytes that each process gives, without zeros at their ends.

        Args:
            contents: those of this process.
            size: their number, if all give as many. Otherwise each process says how many it gives, and so how much
                memory the others need.
        """
        from jax.experimental import multihost_utils

        sent = np.zeros(self.largest(len(contents)) if size is None else size, np.uint8)
        sent[: len(contents)] = np.frombuffer(contents, np.uint8)
        with self.noticing_loss():
            rows = multihost_utils.process_allgather(sent)
        return [row.tobytes().rstrip(b"\0") for row in np.reshape(rows, (self.count, -1))]

    def check_same(self, argument: str, settings: Mapping[str, JsonValue]) -> None:
        """Raises an ``InputError`` in all processes if these settings differ between them."""
        if not self.are_several:
            return
        first, *others = map(json.loads, self.bytes_from_all(json.dumps(settings).encode()))
        found = [
            f"in process {number}: {different}"
            for number, settings in enumerate(others, 1)
            if (different := difference(settings, first))
        ]
        if found:
            raise InputError(argument, "the arguments of process 0 in every process", listed(found))


class Interruption(Signals):
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
        numbers = [signal.SIGINT, signal.SIGTERM]
        if not processes.are_several:
            numbers = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        super().__init__(*(numbers if threading.current_thread() is threading.main_thread() else ()))
        self.defer("epoch of all processes")
        self._processes = processes

    def __exit__(self, *exception: object) -> None:
        # The loop has dealt with every signal. A later ``check``, in the last evaluation, must not raise it again.
        self._received = None
        super().__exit__(*exception)

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if Ctrl-C was pressed since the last call.

        With several processes it has to be called in all of them, after the same epochs. The exception has the name of
        the signal if it was SIGTERM.
        """
        # A signal that comes while the processes wait for each other is kept for the next call.
        mine, self._received = self._received or 0, None
        received = self._processes.largest(mine)
        if received:
            raise KeyboardInterrupt(*([signal.SIGTERM.name] if received == signal.SIGTERM else []))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._processes.are_several:
            self._received = number
            raise KeyboardInterrupt
        # An exception would leave the others waiting, in a step that this process does not take.
        super()._handle(number, frame)
