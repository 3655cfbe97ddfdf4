"""Worker threads: each trains one batch of members after another, on its device."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import TypeAlias

from functional_nn.core.functions import settings_of_this_thread
from functional_nn.sweeps.execution.member_batch import MemberBatch
from functional_nn.training.programs.devices import Device

Step: TypeAlias = tuple[MemberBatch, bool]
"""A batch that has run an epoch, and whether it is done."""


class Workers:
    """Threads that train batches of members in parallel. XLA's programs release Python's lock while they run.

    Settings of JAX that hold in the caller's thread only, such as ``with jax.enable_x64(True)``, hold in these, too.

    Args:
        devices: the device of each worker; several workers may share one.
    """

    def __init__(self, devices: Sequence[Device]):
        self.devices = list(devices)
        self.measured = False

    def run(self, batches: Sequence[MemberBatch]) -> Iterator[Step]:
        """Trains each batch up to its last epoch, and yields after each epoch of a batch.

        If the caller stops iterating, as after Ctrl-C, the workers end after their current epoch.
        """
        waiting = deque(batches)
        stop = threading.Event()
        # Each worker sends its steps, and None when it ends. If an error ends it, it sends the error first.
        events: Queue[Step | BaseException | None] = Queue()

        settings = settings_of_this_thread()

        def train(device: Device) -> None:
            while not stop.is_set():
                try:
                    batch = waiting.popleft()
                except IndexError:  # Another worker has taken the last one.
                    break
                if not batch.begun:
                    batch.begin(device)
                while batch.goes_on and not stop.is_set():
                    batch.run_epoch()
                    events.put((batch, not batch.goes_on))

        def work(device: Device) -> None:
            try:
                with settings():
                    train(device)
            except BaseException as error:
                events.put(error)
            events.put(None)

        # Daemons do not keep a process alive that ends without joining them, as after a second Ctrl-C.
        threads = [threading.Thread(target=work, args=(device,), daemon=True) for device in self.devices]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    running -= 1
                else:
                    yield event
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def measure(self, batches: Sequence[MemberBatch]) -> Iterator[Step]:
        """Measures whether the workers are faster in parallel than one after another, and keeps one worker if not.

        The measurement is part of the work: first one epoch of the first batch alone, then one epoch of as many batches
        as there are workers. Yields what ``run`` yields.
        """
        count = len(self.devices)
        # The first batch starts on the first device, the following ones on the devices of their workers.
        for batch, device in zip(batches[: count + 1], (self.devices[0], *self.devices), strict=False):
            batch.begin(device)
        alone = batches[0].run_epoch()
        yield batches[0], not batches[0].goes_on
        together = [batch for batch in batches[: count + 1] if batch.goes_on][:count]
        if len(together) < count:
            return
        settings = settings_of_this_thread()

        def run_epoch(batch: MemberBatch) -> None:
            with settings():
                batch.run_epoch()

        clock = time.perf_counter()
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(run_epoch, together))
        # One after another, the same epochs would have taken count * alone.
        if time.perf_counter() - clock > count * alone:
            del self.devices[1:]
        self.measured = True
        yield from ((batch, not batch.goes_on) for batch in together)
