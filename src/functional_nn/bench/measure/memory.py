"""What a compiled program needs of memory, and what the device says."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class Memory(NamedTuple):
    """Bytes of a program's arguments, results and scratch memory, as its compiler planned them.

    Args:
        arguments: of what goes in; what the program does not read is not in it.
        outputs: of what comes out.
        temporary: of what lives only while it runs.
        shared: of outputs that take a donated argument's place.
        device_peak: the most that was in use on the device since the process began, by anything; None on a CPU, which
            does not say.
    """

    arguments: int
    outputs: int
    temporary: int
    shared: int
    device_peak: int | None

    @property
    def peak(self) -> int:
        """All at once: arguments, outputs that have a place of their own, scratch memory."""
        return self.arguments + self.outputs - self.shared + self.temporary

    def __str__(self) -> str:
        parts = f"{in_bytes(self.arguments)} in, {in_bytes(self.outputs)} out, {in_bytes(self.temporary)} scratch"
        shared = f", {in_bytes(self.shared)} shared by donation" if self.shared else ""
        device = "" if self.device_peak is None else f"; device {in_bytes(self.device_peak)} at most so far"
        return f"{in_bytes(self.peak)} at the peak: {parts}{shared}{device}"


def memory_of(compiled: Any) -> Memory | None:
    """The memory of a compiled program; None where the platform does not tell."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    statistics = jax.local_devices()[0].memory_stats() or {}
    return Memory(
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.temp_size_in_bytes,
        analysis.alias_size_in_bytes,
        statistics.get("peak_bytes_in_use"),
    )


def in_bytes(number: float) -> str:
    """Bytes in three digits.

    >>> in_bytes(512), in_bytes(1_714_568)
    ('512 B', '1.71 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
