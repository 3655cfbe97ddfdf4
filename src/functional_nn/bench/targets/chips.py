"""Accelerator chips by name, with the peaks that their maker publishes."""

from __future__ import annotations

from typing import NamedTuple

from functional_nn.core.errors import InputError
from functional_nn.core.suggestions import suggest
from functional_nn.core.validation import shown

REGISTER_BYTES = 32
"""A TPU's vector register has 128 lanes of this many bytes: 8 rows of 32-bit numbers, or 16 rows of 16-bit numbers."""


class Chip(NamedTuple):
    """A chip, and what its maker publishes about it.

    Args:
        name: its name here.
        topology: the smallest group of these chips that the compiler knows, by the compiler's name.
        flops_per_second: the peak for products of bfloat16 numbers that are added in float32.
        bytes_per_second: the peak between the chip and its memory (HBM).
        memory: bytes of this memory.
        matrix_unit: the rows and the columns of the matrix unit. It multiplies blocks of this size.
        source: the page with these figures.
    """

    name: str
    topology: str
    flops_per_second: float
    bytes_per_second: float
    memory: int
    matrix_unit: int
    source: str


_DOCUMENTATION = "https://docs.cloud.google.com/tpu/docs"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("tpu-v5e", "v5e:2x2", 197e12, 819e9, 16 * 10**9, 128, f"{_DOCUMENTATION}/v5e"),
        Chip("tpu-v5p", "v5p:2x2x1", 459e12, 2765e9, 95 * 10**9, 128, f"{_DOCUMENTATION}/v5p"),
        Chip("tpu-v6e", "v6e:2x2", 918e12, 1640e9, 32 * 10**9, 256, f"{_DOCUMENTATION}/v6e"),
    )
}
"""All chips by name. The sizes of the matrix units are from https://docs.cloud.google.com/tpu/docs/system-architecture."""


def chip_named(name: object) -> Chip:
    """The chip with this name.

    >>> chip_named("tpu-v6e").matrix_unit
    256

    Raises:
        InputError: for another name.
    """
    if not isinstance(name, str) or name not in CHIPS:
        remedy = suggest(name, CHIPS) if isinstance(name, str) else f"Known chips: {', '.join(CHIPS)}."
        raise InputError("chip", "the name of a chip", shown(name), remedy)
    return CHIPS[name]
