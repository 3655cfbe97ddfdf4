"""Fast start of the command: importing and starting JAX while data are read."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from functional_nn.cli.several_processes import SeveralProcesses, speak_last

STARTED = time.perf_counter()
"""The time when the command's modules were imported."""


@contextmanager
def importing() -> Iterator[None]:
    """Switches garbage collection off while the body imports JAX, and exempts the imported objects from it later.

    Imports make a hundred thousand objects and no garbage. To search them repeatedly would take a fifth of the time.
    """
    if "jax" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


ONE_PROCESS = SeveralProcesses()
"""The process alone, as it is unless flags say otherwise."""


@contextmanager
def starting_jax(precision: str, devices: int, processes: SeveralProcesses = ONE_PROCESS) -> Iterator[None]:
    """Imports and starts JAX in a thread while the body reads data.

    The two run at the same time, since zlib, hashes and NumPy release Python's lock. Modules that both need are
    imported first: if modules import each other, as those of NumPy do, a second thread may see one that is half
    imported.

    Args:
        precision: ``float64`` switches JAX's 64-bit numbers on.
        devices: the number of CPU devices that JAX starts with, in each process.
        processes: how this process finds others, if several train together.
    """
    import functional_nn.data.sources  # noqa: F401

    if processes.are_asked_for:
        speak_last()
    with ThreadPoolExecutor(1) as threads:
        started = threads.submit(_start_jax, precision, devices, processes)
        yield
        started.result()


def make_cpu_devices(count: int) -> None:
    """Lets JAX start with this number of CPU devices, if it has not started yet.

    If it has started, ``fit`` and ``sweep`` raise an error when it has too few devices.
    """
    import jax

    if count > 1:
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def _start_jax(precision: str, devices: int, processes: SeveralProcesses) -> None:
    with importing():
        import jax

        import functional_nn.training.fit  # noqa: F401
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    make_cpu_devices(devices)
    if processes.are_asked_for:
        processes.start()
    jax.config.update("jax_traceback_in_locations_limit", 0)  # shorter programs compile faster
    jax.random.key(0)  # the first program loads what every other program needs
