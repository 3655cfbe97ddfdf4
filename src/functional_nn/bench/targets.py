"""A function or a network compiled for a chip that this machine does not have, and what is known without a run."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled, Lowered

from functional_nn import names
from functional_nn.bench.compiled_program import Memory, check_call, clocked, planned_memory
from functional_nn.bench.network_programs import BenchmarkCase, MeasuredNetwork, Workload, epoch_spec, workload
from functional_nn.bench.units import in_bytes, in_flops, in_seconds, labeled
from functional_nn.core.display import html_text
from functional_nn.core.errors import imported
from functional_nn.core.products import tracing_for
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_choice
from functional_nn.jaxprs.counts import PRODUCTS, flops_by_scope, flops_of, least_bytes, uncounted
from functional_nn.jaxprs.walk import array_type, equations, fresh, live
from functional_nn.jaxprs.xla_options import Options, compile_lowered, compiling_anew, step_options, sum_options
from functional_nn.training.devices import Device
from functional_nn.training.programs import ProgramSpec, argument_shapes, mapped


def target(
    function: Callable[..., object], *arguments: object, chip: str, donate: int | Sequence[int] = ()
) -> TargetReport:
    """Compiles a function for a chip that this machine does not have, and counts its work. Nothing is run.

    The report says whether the function compiles, or why not, and how much memory it needs. It has the operations and
    bytes of one call, and a lower bound of its time:

        max(operations of the products / peak of operations, bytes of arguments and results / peak of bytes)

    with the peaks that the chip's maker publishes. The bound is no measurement, and a run takes longer. It takes into
    account that, at JAX's default precision, a TPU rounds float32 numbers to bfloat16 before a product, and a GPU
    rounds them to TF32. On a GPU, the bytes are those beyond its cache, which can hold arrays from call to call.

    Args:
        function: a function of pytrees of arrays.
        *arguments: the arguments of its call: arrays, or ``jax.ShapeDtypeStruct``.
        chip: ``"tpu-v5e"``, ``"tpu-v6e"`` or ``"cuda-h100"``.
        donate: the numbers of the arguments that are donated.

    Raises:
        InputError: if the compiler for the chip is not installed, for an unknown chip, if an argument is not an array,
            or if ``donate`` has a number without an argument.

    >>> import functional_nn as fnn, jax
    >>> fnn.bench.target(jax.numpy.sin, 1.0, chip="tpu-v5")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: chip: expected a known name, got 'tpu-v5'. Did you mean tpu-v5e? ...
    """
    known_chip: Chip = names.CHIPS[check_choice("chip", chip, names.CHIPS)]
    # The checks do not know shapes, so each is a number for them.
    numbers = jax.tree.map(lambda leaf: 0 if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, arguments)
    donate = check_call(function, numbers, donate)
    name: str = getattr(function, "__name__", type(function).__name__)
    return compile_for(name, known_chip, function, arguments, donate)


def compile_for(
    name: str,
    chip: Chip,
    function: Callable[..., object],
    arguments: Sequence[object],
    donate: Sequence[int] = (),
    *,
    steps: int = 1,
) -> TargetReport:
    """Compiles a function for one chip, and counts its work.

    Args:
        name: the name of the program.
        chip: the chip.
        function: a function of pytrees of arrays.
        arguments: its arguments, or their shapes and types.
        donate: the numbers of the arguments that are donated.
        steps: the number of train steps in one call. Several are compiled with the options of ``fit``.

    Raises:
        InputError: if the compiler for the chip is not installed.
    """
    device = device_of(chip)
    # The place of the results decides which platform JAX lowers for. The arguments may be anywhere.
    jitted = jax.jit(fresh(function), donate_argnums=tuple(donate), out_shardings=SingleDeviceSharding(device))
    with tracing_for(chip.platform):
        seconds_trace, traced = clocked(lambda: jitted.trace(*map(shapes_in, arguments)))
        seconds_lower, lowered = clocked(traced.lower)
    # The options depend on the loops in the program.
    options = step_options(traced.jaxpr) | sum_options(traced.jaxpr) if steps > 1 else {}
    with compiling_anew():
        seconds_compile, (compiled, reason) = clocked(lambda: _compiled(lowered, options))
    program = live(traced.jaxpr)
    return TargetReport(
        name=name,
        chip=chip,
        stages={"trace": seconds_trace, "lower": seconds_lower, "compile": seconds_compile},
        reason=reason,
        memory=None if compiled is None else planned_memory(compiled),
        flops=flops_by_scope(program).total(),
        least_bytes=least_bytes(program),
        products=flops_by_cost(program, chip),
        uncounted=dict(sorted(uncounted(program).items())),
        steps=steps,
    )


def target_case(network: MeasuredNetwork, case: BenchmarkCase, chip: Chip) -> TargetReport:
    """Compiles a case for a chip.

    ``train`` and ``sweep`` are the programs for the full batches of an epoch. A sweep trains all of its members by one
    program, as it does on one accelerator.
    """
    if case.steps == 1:
        made = workload(case.what, network, case.batch_size, case.precision)
        return compile_for(case.what, chip, made.function, made.arguments, made.donate)
    # ``fit`` and ``sweep`` keep the train state from before the epoch, so it is not donated.
    function, arguments, _ = epoch_program(epoch_spec(network, case))
    return compile_for(case.name, chip, function, arguments, steps=case.steps)


def epoch_program(spec: ProgramSpec) -> Workload:
    """The function that ``fit`` or ``sweep`` compiles for the full batches of an epoch, with shapes as arguments."""
    shapes = argument_shapes(spec)
    order, _ = jax.eval_shape(mapped(spec, "order"), shapes["key"], shapes["number"])
    train_state = jax.eval_shape(mapped(spec, "init"), shapes["h"], shapes["key"])
    return Workload(mapped(spec, "full"), (shapes["h"], train_state, order, *spec.data.part("train")))


@dataclass(frozen=True, repr=False)
class TargetReport:
    """A program for a chip that this machine does not have. It prints as a table; its ``repr`` is one line.

    Nothing was run. All seconds of the program follow from counts and from published peaks: they are lower bounds,
    and not measurements.

    Args:
        name: the name of the program.
        chip: the chip, with its published peaks.
        stages: seconds to ``trace``, ``lower`` and ``compile`` it on this machine.
        reason: why it does not compile, in the compiler's words; empty if it does.
        memory: bytes that it needs, as the compiler planned them; None if it does not compile.
        flops: floating-point operations of one call, counted from the traced program.
        least_bytes: bytes of the arguments and results that one call has to move, whatever the chip keeps on itself.
            If an argument is returned with some elements replaced, only the new ones count: the rest can stay in place.
        products: the operations of its matrix products and convolutions, as ``flops_by_cost`` counts them.
        uncounted: the operations that ``flops`` leaves out, and how often one call runs each.
        steps: the number of train steps in one call.
    """

    name: str
    chip: Chip
    stages: dict[str, float]
    reason: str
    memory: Memory | None
    flops: int
    least_bytes: int
    products: dict[float, int]
    uncounted: dict[str, int] = field(default_factory=dict)
    steps: int = 1

    @property
    def compiles(self) -> bool:
        """Whether the program compiles for the chip."""
        return not self.reason

    @property
    def fits(self) -> bool:
        """Whether the program compiles and its memory is at most that of the chip."""
        return self.memory is not None and self.memory.peak <= self.chip.memory

    @property
    def product_seconds(self) -> float:
        """The seconds of one call's matrix products at the chip's peak: the sum of cost · operations / peak."""
        return sum(cost * flops for cost, flops in self.products.items()) / self.chip.flops_per_second

    @property
    def byte_seconds(self) -> float:
        """The seconds to move ``least_bytes`` at the chip's peak, but for those that a cache may hold already."""
        return max(self.least_bytes - self.chip.cache, 0) / self.chip.bytes_per_second

    @property
    def lower_bound(self) -> float:
        """The seconds that one call takes at least: max(``product_seconds``, ``byte_seconds``).

        Both may happen at the same time, so they are not added up. Operations outside of products take no time here,
        because not all makers publish the peak of their vector units.
        """
        return max(self.product_seconds, self.byte_seconds)

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        return {
            "name": self.name,
            "chip": {name: getattr(self.chip, name) for name in Chip.PUBLISHED},
            "compiles": self.compiles,
            "reason": self.reason,
            "stages": self.stages,
            "memory": self.memory and self.memory.to_dict(),
            "fits": self.fits,
            "flops": self.flops,
            "not_counted": self.uncounted,
            "least_bytes": self.least_bytes,
            "steps": self.steps,
            "product_seconds": self.product_seconds,
            "byte_seconds": self.byte_seconds,
            "lower_bound_seconds": self.lower_bound,
        }

    def __repr__(self) -> str:
        bound = f"at least {in_seconds(self.lower_bound)} a call"
        if not self.compiles:
            return f"TargetReport({self.name} for {self.chip.name}: does not compile; {bound})"
        memory = "" if self.memory is None else f"{in_bytes(self.memory.peak)}, "
        return f"TargetReport({self.name} for {self.chip.name}: compiles, {memory}{bound})"

    _repr_html_ = html_text

    def __str__(self) -> str:
        steps = f", {self.steps} steps a call" if self.steps > 1 else ""
        head = f"{self.name} for {self.chip.name}{steps}; nothing was run"
        return "\n".join([head, *labeled(self.facts())])

    def facts(self) -> Iterator[tuple[str, str]]:
        """The label and the text of each fact."""
        chip = self.chip
        seconds = in_seconds(self.stages["compile"])
        yield "compiles", f"yes, in {seconds}" if self.compiles else f"no: {self.reason}"
        if self.memory:
            share = f"{100 * self.memory.peak / chip.memory:.2g}% of {in_bytes(chip.memory)}"
            yield "memory", f"{self.memory}; {share}{'' if self.fits else ', so it does not fit'}"
        rates = {f"{in_flops(chip.flops_per_second / cost)}/s" for cost in self.products}
        products = f"; the products take {in_seconds(self.product_seconds)} at {' and '.join(sorted(rates))}"
        yield "operations", f"{in_flops(self.flops)}{products if rates else ''}"
        if self.uncounted:
            yield "not counted", ", ".join(f"{name} ({number})" for name, number in self.uncounted.items())
        cached = f", without {in_bytes(chip.cache)} that may be in the cache" if chip.cache else ""
        speed = f"{in_seconds(self.byte_seconds)} at {in_bytes(chip.bytes_per_second)}/s{cached}"
        yield "bytes", f"{in_bytes(self.least_bytes)} of arguments and results take {speed}"
        each = f", {in_seconds(self.lower_bound / self.steps)} a step" if self.steps > 1 else ""
        bound = f"{in_seconds(self.lower_bound)} a call{each}"
        yield "lower bound", f"{bound}, from published peaks. No measurement: a run takes longer"


def flops_by_cost(program: ClosedJaxpr, chip: Chip) -> dict[float, int]:
    """The operations of a program's products of floating-point numbers up to float32, by their cost.

    The cost of a product is its time at the chip's peak, divided by the time of the same product of bfloat16 numbers.

    Args:
        program: the traced program, as the chip computes it.
        chip: the chip.
    """
    flops: Counter[float] = Counter()
    for _, equation, repeats, *_ in equations(program):
        if equation.primitive.name in PRODUCTS and flops_of(equation):
            types = [operand.dtype for operand in map(array_type, equation.invars)]
            if all(jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 4 for dtype in types):
                flops[_cost(equation, chip)] += repeats * flops_of(equation)
    return dict(flops)


def _cost(equation: JaxprEqn, chip: Chip) -> float:
    """The cost of a product, at the precision that JAX asks for."""
    bytes_of_a_number = max(operand.dtype.itemsize for operand in map(array_type, equation.invars))
    if bytes_of_a_number < 4:
        return chip.float8_cost if bytes_of_a_number == 1 else 1
    precision = equation.params["precision"]
    wanted = precision if isinstance(precision, tuple) else (precision,)
    # Of other ways to ask for a precision, the cheapest one is assumed, so that the bound holds.
    return max(chip.float32_costs.get(one, chip.float32_costs[lax.Precision.DEFAULT]) for one in wanted)


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
        float32_costs: the time of a product of float32 numbers, for each precision that JAX knows, divided by the time
            of the same product of bfloat16 numbers.
        float8_cost: the same for a product of float8 numbers.
    """

    name: str
    platform: str
    topology: Mapping[str, str]
    flops_per_second: float
    bytes_per_second: float
    memory: int
    cache: int
    float32_costs: Mapping[lax.Precision, float]
    float8_cost: float

    PUBLISHED: ClassVar = ("name", "flops_per_second", "bytes_per_second", "memory", "cache")
    """What a record says about a chip."""


def _tpu(name: str, topology: str, flops: float, bytes_per_second: float, memory: int) -> Chip:
    """A TPU, with the peaks from https://docs.cloud.google.com/tpu/docs/ and its name."""
    return Chip(
        name=f"tpu-{name}",
        platform="tpu",
        topology={"topology_name": topology},
        flops_per_second=flops,
        bytes_per_second=bytes_per_second,
        memory=memory,
        cache=0,  # the memory on the chip holds nothing between two programs
        # For a product of float32 numbers, the TPU adds up this number of products of bfloat16 numbers.
        float32_costs={lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6},
        float8_cost=1,  # these matrix units multiply float8 numbers as bfloat16
    )


tpu_v5e = _tpu("v5e", "v5e:2x2", 197e12, 819e9, 16 * 10**9)
tpu_v6e = _tpu("v6e", "v6e:2x2", 918e12, 1640e9, 32 * 10**9)
cuda_h100 = Chip(  # https://www.nvidia.com/en-us/data-center/h100/
    name="cuda-h100",
    platform="cuda",
    topology={
        "topology_name": "h100",
        "topology": "1x1x1",
        # An NVIDIA H100 (SXM) that XLA compiles for, in the text form of its ``GpuTargetConfigProto``.
        "target_config": Path(__file__).with_name("h100.txtpb").read_text("utf-8"),
    },
    flops_per_second=989.5e12,
    bytes_per_second=3350e9,
    memory=80 * 10**9,
    cache=50 * 2**20,
    # TF32 has half the peak of bfloat16. Full float32 does not use the matrix units: 67 TFLOP/s.
    float32_costs={lax.Precision.DEFAULT: 2, lax.Precision.HIGH: 2, lax.Precision.HIGHEST: 989.5 / 67},
    float8_cost=0.5,  # 1,979 TFLOP/s
)


COMPILERS = {"tpu": "libtpu", "cuda": "jax-cuda13-plugin"}
"""The package that has the compiler for a platform."""
FILES = {"tpu": ("/dev/accel*", "/dev/vfio/[0-9]*"), "cuda": ("/dev/nvidia[0-9]*",)}
"""Patterns for the files of the chips that are in this machine."""
SETTINGS = {
    # libtpu then neither asks a server of Google's cloud for the TPU of this machine, nor warns that there is none,
    # nor writes log files, nor refuses to start twice. The accelerator's type stands for this machine, and not for
    # the chip to compile for.
    "tpu": {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    },
    # No message that there is no GPU, and no check of libraries that only a run needs.
    "cuda": {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"},
}
"""Environment variables for a machine that does not have such a chip."""
LONGEST_REASON = 300
"""Characters of a compiler's message that are repeated."""


@functools.cache
def device_of(chip: Chip) -> Device:
    """A chip as JAX describes it. Nothing can run on it.

    If the compiler's package is installed, JAX loads it when it starts, and the package warns if there is no such chip.
    It does not if this function was called before.

    Raises:
        InputError: if the package is not installed.
    """
    package = COMPILERS[chip.platform]
    imported(package.replace("-", "_"), "chip", extra=f"{chip.platform}-target")
    # On a machine with such a chip, these settings would hide it from the rest of the process.
    has_chip = any(map(glob.glob, FILES[chip.platform]))
    with _environment({} if has_chip else SETTINGS[chip.platform]):
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
