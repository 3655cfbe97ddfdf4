"""One model on several devices: each has all parameters, and computes its share of every batch."""

from __future__ import annotations

import os
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
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_devices(devices: Any, batch_size: int) -> None:
    """Refuses more devices than there are, and a batch that cannot be divided among them evenly."""
    check_count("devices", devices)
    there = len(jax.local_devices())
    if devices > there:
        remedy = 'On a CPU call jax.config.update("jax_num_cpu_devices", ...) before JAX computes anything.'
        raise InputError("devices", f"at most {there}, which JAX has here", devices, remedy)
    if batch_size % devices:
        raise InputError("batch_size", f"a multiple of {devices}, the number of devices", batch_size)


def check_single_process(function: str) -> None:
    """Refuses several processes of ``jax.distributed``: each would train a model of its own and say nothing of it."""
    if (processes := jax.process_count()) > 1:
        remedy = "Start it in one process, or write the loop with make_train_step, which runs on any sharded arrays."
        raise InputError(function, "one process", f"{processes} processes of jax.distributed", remedy)


def on_each(devices: int) -> NamedSharding | None:
    """Where a run's arrays lie: whole on each of so many devices; for one device, None: wherever JAX puts them."""
    if devices == 1:
        return None
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (BATCH,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec())


def divided(net: Layer, everywhere: NamedSharding | None) -> Layer:
    """The network with its batch divided among the devices that ``everywhere`` names.

    It is XLA that divides the program: what goes over the whole batch, such as a mean, a sum or a batch norm, is
    computed over all devices, so any network and any loss give what they give on one device, but for rounding.
    """
    if everywhere is None:
        return net
    share = NamedSharding(everywhere.mesh, PartitionSpec(BATCH))

    def forward(params, state, x, *, train, key=None):
        x = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, share), x)
        return net.forward(params, state, x, train=train, key=key)

    return net._replace(forward=forward)
