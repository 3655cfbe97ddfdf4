"""Training on several devices: each has all parameters, and computes its share of every batch."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.core.validation import check_count

Device: TypeAlias = Any
"""A device of JAX. ``jax.Device`` is not a class for type checkers."""

BATCH = "batch"
"""The name of the devices' axis."""


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


def check_devices(devices: int, batch_size: int) -> None:
    """Raises an InputError unless JAX has this number of devices, and they can share the batch evenly."""
    check_count("devices", devices)
    available = len(jax.local_devices())
    if devices > available:
        remedy = 'On a CPU call jax.config.update("jax_num_cpu_devices", ...) before JAX computes anything.'
        raise InputError("devices", f"at most {available}, the number that JAX has", devices, remedy)
    if batch_size % devices:
        raise InputError("batch_size", f"a multiple of {devices}, the number of devices", batch_size)


def check_single_process(function: str) -> None:
    """Raises an InputError if ``jax.distributed`` has several processes, because each would train a separate model."""
    processes = jax.process_count()
    if processes > 1:
        remedy = "Start it in one process, or write the loop with make_train_step, which runs on any sharded arrays."
        raise InputError(function, "one process", f"{processes} processes of jax.distributed", remedy)


def on_each(devices: int) -> NamedSharding | None:
    """The sharding that puts whole arrays on each of several devices; None for one device, which JAX chooses."""
    if devices == 1:
        return None
    # Auto leaves the division of every operation to XLA; the constraint in divided says only where the batch starts.
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (BATCH,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec())


def divided(net: Layer, everywhere: NamedSharding | None) -> Layer:
    """The network with its batch divided among the devices of the sharding ``everywhere``.

    XLA divides the program. It computes means, sums and batch norms over the whole batch, across all devices. So any
    network and any loss give the same results as on one device, except for rounding.
    """
    if everywhere is None:
        return net
    share = NamedSharding(everywhere.mesh, PartitionSpec(BATCH))

    def forward(params, state, x, *, train, key=None):
        x = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, share), x)
        return net.forward(params, state, x, train=train, key=key)

    return net._replace(forward=forward)
