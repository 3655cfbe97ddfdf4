"""Accelerator chips by name, with the peaks that their makers publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jax import lax

from functional_nn.bench.targets.h100 import H100
from functional_nn.core.errors import InputError
from functional_nn.core.texts import suggest
from functional_nn.core.validation import shown


class Blocks(NamedTuple):
    """The smallest product that a matrix unit computes: (rows, shared) times (shared, columns)."""

    rows: int
    shared: int
    columns: int


@dataclass(frozen=True, eq=False)
class Chip:
    """A chip, and what its maker publishes about it.

    Args:
        name: its name here.
        platform: JAX's name for its platform.
        topology: how JAX's compiler is told which chip it is.
        flops_per_second: the peak for products of bfloat16 numbers that are added in float32.
        bytes_per_second: the peak between the chip and its memory.
        memory: bytes of this memory.
        cache: bytes that can stay on the chip from one call to the next.
        blocks: the smallest product of its matrix unit, by the bytes of a number.
        float32_costs: the time of a product of float32 numbers, for each precision that JAX knows, divided by the time
            of the same product of bfloat16 numbers.
        float8_cost: the same for a product of float8 numbers.
        source: the page with the peaks.
    """

    name: str
    platform: str
    topology: Mapping[str, str]
    flops_per_second: float
    bytes_per_second: float
    memory: int
    cache: int
    blocks: Mapping[int, Blocks]
    float32_costs: Mapping[lax.Precision, float]
    float8_cost: float
    source: str


def _tpu(name: str, topology: str, flops: float, bytes_per_second: float, memory: int, unit: int) -> Chip:
    """A TPU. Its matrix unit has ``unit`` rows and columns; a vector register has 32 bytes for each of its lanes."""
    return Chip(
        name=f"tpu-{name}",
        platform="tpu",
        topology={"topology_name": topology},
        flops_per_second=flops,
        bytes_per_second=bytes_per_second,
        memory=memory,
        cache=0,  # the memory on the chip holds nothing between two programs
        blocks={size: Blocks(32 // size, unit, unit) for size in (1, 2, 4)},
        # For a product of float32 numbers, the TPU adds up this number of products of bfloat16 numbers.
        float32_costs={lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6},
        float8_cost=1,  # these matrix units multiply float8 numbers as bfloat16
        source=f"https://docs.cloud.google.com/tpu/docs/{name}",
    )


CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v5e", "v5e:2x2", 197e12, 819e9, 16 * 10**9, 128),
        _tpu("v5p", "v5p:2x2x1", 459e12, 2765e9, 95 * 10**9, 128),
        _tpu("v6e", "v6e:2x2", 918e12, 1640e9, 32 * 10**9, 256),
        Chip(
            name="cuda-h100",
            platform="cuda",
            topology={"topology_name": "h100", "topology": "1x1x1", "target_config": H100},
            flops_per_second=989.5e12,
            bytes_per_second=3350e9,
            memory=80 * 10**9,
            cache=50 * 2**20,
            blocks={size: Blocks(16, 32 // size, 8) for size in (1, 2, 4)},
            # TF32 has half the peak of bfloat16. Full float32 does not use the matrix units: 67 TFLOP/s.
            float32_costs={lax.Precision.DEFAULT: 2, lax.Precision.HIGH: 2, lax.Precision.HIGHEST: 989.5 / 67},
            float8_cost=0.5,  # 1,979 TFLOP/s
            source="https://www.nvidia.com/en-us/data-center/h100/",
        ),
    )
}
"""All chips by name. The sizes of the TPUs' matrix units are from
https://docs.cloud.google.com/tpu/docs/system-architecture, and those of the GPU's from the instructions ``mma`` in
https://docs.nvidia.com/cuda/parallel-thread-execution/."""


def chip_named(name: object) -> Chip:
    """The chip with this name.

    >>> chip_named("tpu-v6e").blocks[4]
    Blocks(rows=8, shared=256, columns=256)

    Raises:
        InputError: for another name.
    """
    if not isinstance(name, str) or name not in CHIPS:
        remedy = suggest(name, CHIPS) if isinstance(name, str) else f"Known chips: {', '.join(CHIPS)}."
        raise InputError("chip", "the name of a chip", shown(name), remedy)
    return CHIPS[name]
