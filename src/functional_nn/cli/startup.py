"""What takes a command time before its work: importing JAX, and reading data."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

STARTED = time.perf_counter()
"""The time when the command's modules were imported."""


@contextmanager
def importing() -> Iterator[None]:
    """For importing JAX and what needs it: Python does not look for garbage meanwhile, nor later among what is there.

    Imports make a hundred thousand objects and no garbage, and looking at them again and again is a fifth of the time.
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


@contextmanager
def jax_beginning(precision: str, devices: int) -> Iterator[None]:
    """JAX is imported and begins, set for this precision and so many devices, while the body reads data.

    Both run at the same time, since zlib, hashes and NumPy leave Python to other threads.
    """
    with ThreadPoolExecutor(1) as threads:
        beginning = threads.submit(_begin, precision, devices)
        yield
        beginning.result()


def _begin(precision: str, devices: int) -> None:
    with importing():
        import jax

        import functional_nn.training.fit  # noqa: F401
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    if devices > 1:
        with suppress(RuntimeError):  # JAX has begun already: fit says if there are too few
            jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_traceback_in_locations_limit", 0)  # less to compile, and nobody sees these programs
    jax.random.key(0)  # a first program, with which comes what every other one needs
