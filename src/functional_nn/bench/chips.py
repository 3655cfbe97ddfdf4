"""Chips that this machine does not have: their published peaks, and compilation for them."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import topologies
from jax.extend.core import ClosedJaxpr
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled, Lowered

from functional_nn.bench.compiled_program import clocked
from functional_nn.core.errors import InputError, imported
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown
from functional_nn.jaxprs.walk import fresh
from functional_nn.jaxprs.xla_options import Options, compile_lowered, compiling_anew
from functional_nn.training.devices import Device

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3350000000000
  device_memory_size: 80000000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
"""The description of an NVIDIA H100 (SXM) that XLA compiles for, in the text form of its ``GpuTargetConfigProto``."""


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


class CompilerPackage(NamedTuple):
    """The package that has the compiler for a platform.

    Args:
        module: the name by which it is imported.
        package: the name by which it is installed.
        extra: the extra of this package that installs it.
        settings: environment variables for a machine that does not have such a chip.
        files: patterns for the files of the chips that are in this machine.
    """

    module: str
    package: str
    extra: str
    settings: Mapping[str, str]
    files: tuple[str, ...]


PACKAGES = {
    "tpu": CompilerPackage(
        "libtpu",
        "libtpu",
        "tpu-target",
        # libtpu then neither asks a server of Google's cloud for the TPU of this machine, nor warns that there is none,
        # nor writes log files, nor refuses to start twice. The accelerator's type stands for this machine, and not for
        # the chip to compile for.
        {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_LOG_DIR": "disabled",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
        ("/dev/accel*", "/dev/vfio/[0-9]*"),
    ),
    "cuda": CompilerPackage(
        "jax_cuda13_plugin",
        "jax-cuda13-plugin",
        "cuda-target",
        # No message that there is no GPU, and no check of libraries that only a run needs.
        {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"},
        ("/dev/nvidia[0-9]*",),
    ),
}
"""The packages by JAX's name of the platform."""
LONGEST_REASON = 300
"""Characters of a compiler's message that are repeated."""


@dataclass(frozen=True)
class TargetProgram:
    """A program for a chip, and the time that it took to make it.

    Args:
        jaxpr: the traced program.
        compiled: the executable; None if it does not compile.
        reason: the first sentence of the compiler's message if it does not compile; otherwise empty.
        stages: seconds to ``trace``, ``lower`` and ``compile``.
    """

    jaxpr: ClosedJaxpr
    compiled: Compiled | None
    reason: str
    stages: dict[str, float]


def compile_for(
    chip: Chip,
    function: Callable[..., object],
    arguments: Sequence[object],
    donate: Sequence[int] = (),
    options: Callable[[ClosedJaxpr], Options] = lambda program: {},
) -> TargetProgram:
    """Compiles a function for one chip.

    Args:
        chip: the chip.
        function: a function of pytrees of arrays.
        arguments: its arguments, or their shapes and types.
        donate: the numbers of the arguments that are donated.
        options: the compiler's options for the traced program.

    Raises:
        InputError: if the compiler for the chip is not installed.
    """
    device = device_of(chip)
    # The place of the results decides which platform JAX lowers for. The arguments may be anywhere.
    jitted = jax.jit(fresh(function), donate_argnums=tuple(donate), out_shardings=SingleDeviceSharding(device))
    seconds_trace, traced = clocked(lambda: jitted.trace(*map(shapes_in, arguments)))
    seconds_lower, lowered = clocked(traced.lower)
    chosen = options(traced.jaxpr)
    with compiling_anew():
        seconds_compile, (compiled, reason) = clocked(lambda: _compiled(lowered, chosen))
    stages = {"trace": seconds_trace, "lower": seconds_lower, "compile": seconds_compile}
    return TargetProgram(traced.jaxpr, compiled, reason, stages)


@functools.cache
def device_of(chip: Chip) -> Device:
    """A chip as JAX describes it. Nothing can run on it.

    If the compiler's package is installed, JAX loads it when it starts, and the package warns if there is no such chip.
    It does not if this function was called before.

    Raises:
        InputError: if the package is not installed.
    """
    package = PACKAGES[chip.platform]
    imported(package.module, package.package, "chip", extra=package.extra)
    # On a machine with such a chip, these settings would hide it from the rest of the process.
    has_chip = any(map(glob.glob, package.files))
    with _environment({} if has_chip else package.settings):
        return topologies.get_topology_desc(platform=chip.platform, **chip.topology).devices[0]


def shapes_in(argument: PyTree) -> PyTree:
    """The pytree with shapes and types in place of its arrays. Numbers of Python stay, since JAX adapts their type."""

    def shape(leaf: object) -> object:
        if isinstance(leaf, bool | int | float | complex):
            return leaf
        aval = jax.typeof(leaf)
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)

    return jax.tree.map(shape, argument)


def first_sentence(message: str) -> str:
    r"""The first sentence of a compiler's message, without the names of its kind.

    >>> first_sentence("INTERNAL: E1000: Mosaic failed: 4.5 is odd. Try again.\nsee a page")
    'Mosaic failed: 4.5 is odd.'
    """
    text = re.sub(r"^(?:\w+: )+", "", message.strip())
    sentence = re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0]
    return sentence if len(sentence) <= LONGEST_REASON else f"{sentence[: LONGEST_REASON - 1]}…"


def _compiled(lowered: Lowered, options: Options) -> tuple[Compiled | None, str]:
    """The executable and an empty text; or None and the reason why there is none."""
    try:
        return compile_lowered(lowered, options), ""
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        return None, first_sentence(str(error))


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """A context with these environment variables, apart from those that are set already."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
