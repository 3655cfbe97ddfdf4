"""Chunks side by side: a thread a worker, each training one chunk after another on its device."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

from functional_nn.sweeps.execution.member_batch import Chunk


class Workers:
    """So many threads over the devices in turn. XLA's programs release Python's lock, so they run side by side.

    Args:
        devices: one for each worker; several may share one.
        begin: takes a chunk to a device.
    """

    def __init__(self, devices: Sequence[Any], begin: Callable[[Chunk, Any], None]):
        self.devices, self._begin, self.measured = list(devices), begin, False

    def run(self, chunks: Sequence[Chunk], until: Callable[[Chunk], int]) -> Iterator[tuple[Chunk, bool]]:
        """Trains the chunks to the epochs that ``until`` says; gives one after each epoch, and whether it is done.

        Where the caller goes no further, as after Ctrl-C, the workers end with the epoch they are in.
        """
        waiting, stop = deque(chunks), threading.Event()
        events: Queue[Any] = Queue()

        def work(device: Any) -> None:
            try:
                while waiting and not stop.is_set():
                    chunk = waiting.popleft()
                    if not chunk.begun:
                        self._begin(chunk, device)
                    while chunk.goes_on(until(chunk)) and not stop.is_set():
                        chunk.run_epoch(until(chunk))
                        events.put((chunk, not chunk.goes_on(until(chunk))))
            except BaseException as error:
                events.put(error)
            events.put(None)

        threads = [threading.Thread(target=work, args=(device,), daemon=True) for device in self.devices]
        try:
            for thread in threads:
                thread.start()
            at_work = len(threads)
            while at_work:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    at_work -= 1
                else:
                    yield event
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def measure(self, chunks: Sequence[Chunk], until: Callable[[Chunk], int]) -> Iterator[tuple[Chunk, bool]]:
        """Keeps all workers, or one where chunks side by side take longer than one after another.

        What is measured is part of the work: the first chunk's first epoch alone, then an epoch of as many chunks as
        there are workers. Gives what ``run`` does.
        """
        count = len(self.devices)
        for chunk, device in zip(chunks[: count + 1], (self.devices[0], *self.devices), strict=False):
            self._begin(chunk, device)
        alone = chunks[0].run_epoch(until(chunks[0]))
        yield chunks[0], not chunks[0].goes_on(until(chunks[0]))
        together = [chunk for chunk in chunks[: count + 1] if chunk.goes_on(until(chunk))][:count]
        if len(together) < count:
            return
        clock = time.perf_counter()
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda chunk: chunk.run_epoch(until(chunk)), together))
        if time.perf_counter() - clock > count * alone:
            del self.devices[1:]
        self.measured = True
        yield from ((chunk, not chunk.goes_on(until(chunk))) for chunk in together)
