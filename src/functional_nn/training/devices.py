"""Devices: their names and their memory, and training on several of them, which share every batch."""

from __future__ import annotations

import math
import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from functional_nn.core.errors import InputError, check
from functional_nn.core.layer import Layer
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count
from functional_nn.storage.arrays import is_key

Device: TypeAlias = Any
"""A device of JAX, or a sharding over several. ``jax.Device`` is not a class for type checkers."""

DATA = "data"
"""The name of the axis of devices that divides the examples of each batch."""


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name(device: Device) -> str:
    """The name of a device: JAX's, or for a CPU, which JAX only calls ``cpu``, that of the processor.

    Linux knows the name of the processor; on other systems it comes from Python.
    """
    if device.platform != "cpu":
        return device.device_kind
    information = Path("/proc/cpuinfo")
    lines = information.read_text("utf-8").splitlines() if information.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or platform.machine() or device.device_kind


def computing_on(device: Device) -> AbstractContextManager[object]:
    """A context in which programs that name no device are compiled for this one."""
    settings: Any = jax.config
    default = settings.jax_default_device
    # JAX knows a program by its default device, too, so the default that holds already is not set again.
    is_default = device == (jax.local_devices()[0] if default is None else default)
    return nullcontext() if is_default else jax.default_device(device)


def chosen_devices(devices: int | None) -> int:
    """The number of devices of a run: the given one; or else one, or with several processes all devices of all of them.

    Raises:
        InputError: if JAX has fewer devices, or if several processes do not use all of their devices.
    """
    processes = jax.process_count()
    available = jax.device_count() if processes > 1 else jax.local_device_count()
    if devices is None:
        return available if processes > 1 else 1
    if processes > 1:
        expected = f"{available}, all devices of the {processes} processes, or None, which means the same"
        check("devices", devices, expected, devices == available)
    check_count("devices", devices)
    remedy = f'On a CPU call jax.config.update("jax_num_cpu_devices", {devices}) before JAX computes anything.'
    check("devices", devices, f"at most {available}, the number that JAX has", devices <= available, remedy)
    return devices


def on_each(devices: int) -> NamedSharding | None:
    """The sharding that puts whole arrays on each of several devices; None for one device, which JAX chooses.

    With several processes, these are the devices of all of them.

    Args:
        devices: the number of devices that share each batch.
    """
    if devices == 1:
        return None
    chosen = jax.devices() if jax.process_count() > 1 else jax.local_devices()[:devices]
    # Auto leaves the division of every operation to XLA; the constraint in divided says only where the batch starts.
    return NamedSharding(Mesh(np.array(chosen), (DATA,), axis_types=(AxisType.Auto,)), PartitionSpec())


def put_everywhere(tree: PyTree, everywhere: NamedSharding | None) -> PyTree:
    """The arrays of a pytree on each device of the sharding ``everywhere``; None is the device that JAX chooses.

    All processes must give equal arrays. That is not checked here.
    """
    if everywhere is None or everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)

    # device_put would send all arrays to all processes, to see whether they are equal.
    def put(leaf: PyTree) -> jax.Array:
        if is_key(leaf):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, everywhere, lambda index: array[index])

    return jax.tree.map(put, tree)


def rows_of(everywhere: NamedSharding | None, examples: int) -> NamedSharding | None:
    """The sharding by which each device has its share of a batch; all devices have all if they cannot share evenly."""
    if everywhere is None or examples % everywhere.num_devices:
        return everywhere
    return NamedSharding(everywhere.mesh, PartitionSpec(DATA))


def put_on_one(tree: PyTree, everywhere: NamedSharding | None) -> PyTree:
    """Arrays that are whole on each device of the sharding ``everywhere``, on the first device of this process."""
    if everywhere is None:
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def divided(net: Layer, everywhere: NamedSharding | None) -> Layer:
    """The network with its batch divided among the devices of the sharding ``everywhere``.

    XLA divides the program. It computes means, sums and batch norms over the whole batch, across all devices. So any
    network and any loss give the same results as on one device, except for rounding.
    """
    if everywhere is None:
        return net
    share = NamedSharding(everywhere.mesh, PartitionSpec(DATA))

    def forward(params, state, x, *, train, key=None):
        x = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, share), x)
        return net.forward(params, state, x, train=train, key=key)

    return net._replace(forward=forward)


# Memory


def total_bytes() -> float:
    """The memory of the machine; infinite on Windows, which does not state it."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf


PROCESSES, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
"""Where Linux tells about processes, and about groups of them, such as a container or a job, with their limits."""


def free_bytes() -> float:
    """The memory of the machine that programs can still take. If the system does not say it, it is all memory."""
    free = [total_bytes()]
    with suppress(OSError, LookupError, ValueError):
        free.append(1024 * _entry(PROCESSES / "meminfo", "MemAvailable:"))
    with suppress(OSError, LookupError, ValueError):
        # The last line is that of the groups of today's version. A group above may have a lower limit.
        group = (PROCESSES / "self/cgroup").read_text().rstrip().rpartition("::/")[2]
        for folder in (GROUPS / group, *(GROUPS / group).parents[: len(Path(group).parts)]):
            with suppress(OSError, ValueError):  # without a limit, there is no file or no number
                limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
                # Copies of files are given up when memory is needed.
                free.append(limit - used + _entry(folder / "memory.stat", "inactive_file"))
    return max(min(free), 0)


def _entry(path: Path, name: str) -> int:
    """A number by its name in a file of the system."""
    words = path.read_text().split()
    return int(words[words.index(name) + 1])


def memory_limit() -> int:
    """The bytes that a sweep may use: four fifths of the free memory of the device, or of the machine."""
    available, own = _memory()
    return int(min(0.8 * (available - own), sys.maxsize))


def available_bytes() -> float:
    """The memory that this process can have: of the device or, for a CPU, what is free and what the process has."""
    return _memory()[0]


def _memory() -> tuple[float, float]:
    """The bytes that this process can have, and those of them that it has already."""
    # A CPU, and some devices, say nothing about their memory.
    statistics = {} if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"], statistics.get("bytes_in_use", 0)
    own = 0
    with suppress(OSError, LookupError, ValueError):
        own = 1024 * _entry(PROCESSES / "self/status", "VmRSS:")
    return free_bytes() + own, own


def check_bytes(argument: str, needed: float, given: str = "", remedy: str = "") -> None:
    """Raises an InputError if a network needs more bytes than there are. ``given`` says what needs them.

    What the process has already, such as the examples, may be a part of what is needed.
    """
    if needed > (available := available_bytes()):
        expected = f"a network that fits in {gigabytes(available)} of memory"
        raise InputError(argument, expected, given or f"one that needs {gigabytes(needed)}", remedy)


def bytes_of(tree: PyTree) -> int:
    """The bytes of all arrays of a tree, which may be shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def gigabytes(count: float) -> str:
    """A number of bytes as text."""
    return f"{count / 2**30:,.1f} GiB"
