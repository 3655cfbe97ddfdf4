"""The memory that programs need, and the memory of the device."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress

import jax

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.training.programs import Programs


def program_bytes(programs: Programs) -> int:
    """The bytes that training needs: the train state before and after a step, and the largest scratch memory.

    It is 0 on a platform that does not report what a program needs.
    """
    executables = programs.memory_users
    sizes = [size for executable in executables if (size := executable.memory_analysis()) is not None]
    if len(sizes) < len(executables):
        return 0
    # The first program returns the whole train state. It is not donated, so the old and the new one exist together.
    return 2 * sizes[0].output_size_in_bytes + max(size.temp_size_in_bytes for size in sizes)


def system_bytes(*names: str) -> float:
    """The memory that the system states by the first of these names that it knows; infinite if it knows none of them.

    macOS does not state its free memory, and Windows states neither.
    """
    for name in names:
        with suppress(AttributeError, ValueError, OSError):
            return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def memory_statistics() -> Mapping[str, int]:
    """What the first device says about its memory; empty for a CPU, and for a device that does not say it."""
    return {} if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats() or {}


def total_bytes() -> float:
    """The memory of the device in bytes; for a CPU, the memory of the machine. It is infinite if it is not known."""
    statistics = memory_statistics()
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return system_bytes("SC_PHYS_PAGES")


def check_memory(programs: Programs, data: PyTree) -> None:
    """Raises an InputError unless the model and its data fit in memory. Otherwise the system would kill the process."""
    needed = program_bytes(programs) + sum(array.nbytes for array in jax.tree.leaves(data))
    # Virtual devices of a CPU share its memory, and each has a copy.
    if programs.sharding is not None and jax.default_backend() == "cpu":
        needed *= len(programs.sharding.addressable_devices)
    available = total_bytes()
    if needed > available:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(programs.train_state.params))
        given = f"{parameters:,} parameters, which take {_gigabytes(needed)} with gradients, optimizer state and data"
        remedy = "Make the model or the batch smaller."
        raise InputError("net", f"a model that fits in {_gigabytes(available)} of memory", given, remedy)


def check_bytes(argument: str, needed: int) -> None:
    """Raises an InputError for a network or a program that needs more bytes than there are."""
    if needed > (available := total_bytes()):
        expected = f"a network that fits in {_gigabytes(available)} of memory"
        raise InputError(argument, expected, f"one that needs {_gigabytes(needed)}")


def bytes_of(tree: PyTree) -> int:
    """The bytes of all arrays of a tree, which may be shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB"
