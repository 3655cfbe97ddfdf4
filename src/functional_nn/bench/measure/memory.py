"""Memory of a compiled program."""

from __future__ import annotations

import re
from typing import NamedTuple

import jax
from jax.stages import Compiled

from functional_nn.bench.units import in_bytes


class Memory(NamedTuple):
    """Bytes of a program's arguments, results and scratch memory, as planned by the compiler.

    Args:
        arguments: bytes of the arguments that the program reads.
        outputs: bytes of the results.
        temporary: bytes of the scratch memory that is used while the program runs.
        shared: bytes of the results that take the place of a donated argument.
        device_peak: the peak memory use since the process began, by any program, and the maximum over the devices that
            this program uses; None on a CPU, which does not report it.
    """

    arguments: int
    outputs: int
    temporary: int
    shared: int
    device_peak: int | None

    @property
    def peak(self) -> int:
        """The sum of arguments, results that do not share memory with arguments, and scratch memory."""
        return self.arguments + self.outputs - self.shared + self.temporary

    def __str__(self) -> str:
        parts = f"{in_bytes(self.arguments)} in, {in_bytes(self.outputs)} out, {in_bytes(self.temporary)} scratch"
        text = f"{in_bytes(self.peak)} at the peak: {parts}"
        if self.shared:
            text += f", {in_bytes(self.shared)} shared by donation"
        if self.device_peak is not None:
            text += f"; device {in_bytes(self.device_peak)} at most so far"
        return text


def out_of_memory(error: Exception) -> str | None:
    """What to say about an error of XLA or NumPy if memory was too small; None for any other error.

    >>> out_of_memory(MemoryError("Unable to allocate 128. TiB for an array"))
    'out of memory: Unable to allocate 128. TiB for an array'
    """
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    if "RESOURCE_EXHAUSTED" not in str(error):
        return None
    needed = re.search(r"allocat\w+ (\d+) ?bytes", str(error))
    return "out of memory" + (f": {in_bytes(int(needed[1]))} could not be allocated" if needed else "")


def memory_of(compiled: Compiled) -> Memory | None:
    """The memory of a program for this machine; None where the platform does not report it."""
    planned = planned_memory(compiled)
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    devices = {device for sharding in shardings for device in sharding.addressable_devices}
    statistics = [device.memory_stats() or {} for device in devices]
    peaks = [of_device["peak_bytes_in_use"] for of_device in statistics if "peak_bytes_in_use" in of_device]
    return planned and planned._replace(device_peak=max(peaks, default=None))


def planned_memory(compiled: Compiled) -> Memory | None:
    """The memory of a program for any machine, as planned by the compiler; None if it does not say."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return Memory(
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.temp_size_in_bytes,
        analysis.alias_size_in_bytes,
        device_peak=None,
    )
