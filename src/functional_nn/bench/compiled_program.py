"""A compiled program: checks of a call's arguments, its stages, its memory, and the timing of its calls."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled
from jax.tree_util import KeyPath

from functional_nn.bench.units import in_bytes, unit_of_seconds
from functional_nn.core.errors import InputError, check
from functional_nn.core.layer import Layer
from functional_nn.core.validation import LARGEST, check_count, check_function, is_array, is_numeric
from functional_nn.jaxprs.walk import fresh


@dataclass(frozen=True)
class CompiledProgram:
    """A traced and compiled program.

    Args:
        jaxpr: the traced program.
        compiled: the executable.
        stages: seconds to ``trace``, ``lower`` and ``compile`` it, and for its ``first_run``. A program that ``fit``
            compiles has only the last two: its ``compile`` covers tracing and lowering too.
    """

    jaxpr: ClosedJaxpr
    compiled: Compiled
    stages: dict[str, float]

    @property
    def devices(self) -> int:
        """The number of devices that an execution uses: those of its arguments and its outputs."""
        shardings = jax.tree.leaves((self.compiled.input_shardings, self.compiled.output_shardings))
        return max((len(sharding.device_set) for sharding in shardings), default=1)


class MeasuredCall(NamedTuple):
    """A call to measure: one execution of a program, or several executions that run at the same time.

    Args:
        program: the program.
        arguments: the arguments of one execution.
        run: makes the whole call.
        run_empty: makes the same call with a program that computes nothing.
        executions: how often a call executes the program.
        donated: the program with donated arguments, or None.
        donate: the numbers of the arguments that ``donated`` gives away.
        kept: the numbers of the arguments that the caller keeps on purpose; ``explain`` does not advise to donate them.
        program_copies: on how many devices executions of the program run, each with a copy of its own.
    """

    program: CompiledProgram
    arguments: Sequence[object]
    run: Callable[[], object]
    run_empty: Callable[[], object]
    executions: int = 1
    donated: CompiledProgram | None = None
    donate: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    program_copies: int = 1

    @property
    def devices(self) -> int:
        """The number of devices that a call uses."""
        return self.program_copies * self.program.devices


def compile_program(
    function: Callable[..., object], arguments: Sequence[object], donate: Sequence[int] = ()
) -> CompiledProgram:
    """Traces, lowers, compiles and runs a function, and times each of these stages."""
    jitted = jax.jit(fresh(function), donate_argnums=tuple(donate))
    stages = {}
    stages["trace"], traced = clocked(lambda: jitted.trace(*arguments))
    stages["lower"], lowered = clocked(traced.lower)
    stages["compile"], compiled = clocked(lowered.compile)
    stages["first_run"], _ = clocked(compiled, *copies(arguments, donate))
    return CompiledProgram(traced.jaxpr, compiled, stages)


def compile_empty_program(arguments: Sequence[object]) -> Compiled:
    """Compiles a program that takes these arguments and computes nothing."""
    return jax.jit(lambda *_: jnp.zeros(()), keep_unused=True).lower(*arguments).compile()


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

    def to_dict(self) -> dict[str, int | None]:
        """All numbers, ready for JSON."""
        return {**self._asdict(), "peak": self.peak}

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
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    return planned and planned._replace(device_peak=max(filter(None, peaks), default=None))


def planned_memory(compiled: Compiled) -> Memory | None:
    """The memory of a program for any machine, as planned by the compiler; None if it does not say."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    sizes = (getattr(analysis, f"{part}_size_in_bytes") for part in ("argument", "output", "temp", "alias"))
    return Memory(*sizes, device_peak=None)


Name = TypeVar("Name")
Result = TypeVar("Result")

LEAST_ROUNDS = 5
MOST_CALLS = 100
"""The largest number of calls that one contestant makes in a round."""
ROUNDS = 12
"""The given time is divided into this number of rounds."""


class Timing(NamedTuple):
    """The seconds of single calls, in rounds. The calls of one round run one after another; then others take a turn.

    >>> print(Timing(((0.001, 0.002, 0.003),)))
    2.00 ms (1.50-2.50, n=3)
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def samples(self) -> list[float]:
        """The seconds of all calls, sorted."""
        return sorted(seconds for calls in self.rounds for seconds in calls)

    @property
    def median(self) -> float:
        """The median seconds of a call."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile of the seconds of a call."""
        low, high = np.quantile(self.samples, (0.25, 0.75))
        return float(low), float(high)

    @property
    def best(self) -> float:
        """The seconds of the fastest call."""
        return self.samples[0]

    def divided_by(self, count: int) -> Timing:
        """The timing of one step of calls that run ``count`` steps each.

        >>> print(Timing(((0.008,),)).divided_by(4))
        2.00 ms (2.00-2.00, n=1)
        """
        return Timing(tuple(tuple(seconds / count for seconds in calls) for calls in self.rounds))

    def __str__(self) -> str:
        return f"{self.describe()[:-1]}, n={len(self.samples)})"

    def describe(self) -> str:
        """Median and quartiles as text, in one unit."""
        size, unit = unit_of_seconds(self.median)
        median, low, high = (seconds / size for seconds in (self.median, *self.quartiles))
        digits = max(0, 2 - int(math.log10(max(median, 1))))
        return f"{median:.{digits}f} {unit} ({low:.{digits}f}-{high:.{digits}f})"

    def to_dict(self) -> dict[str, object]:
        """Median, quartiles, number of calls, and the median of each round."""
        low, high = self.quartiles
        return {
            "median": self.median,
            "lower_quartile": low,
            "upper_quartile": high,
            "calls": len(self.samples),
            "round_medians": [statistics.median(calls) for calls in self.rounds],
        }


def clocked(function: Callable[..., Result], *arguments: object) -> tuple[float, Result]:
    """Calls a function; returns the seconds until every output is ready, and the outputs."""
    start = time.perf_counter()
    outputs = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, outputs


def copies(arguments: Sequence[object], donated: Sequence[int]) -> list[object]:
    """The arguments, with a finished copy in place of each donated argument."""
    copied = [
        jax.tree.map(jax.numpy.copy, argument) if number in donated else argument
        for number, argument in enumerate(arguments)
    ]
    return jax.block_until_ready(copied)


def race(contestants: Mapping[Name, Callable[[], float]], seconds: float) -> dict[Name, Timing]:
    """Times contestants that take turns, round by round, for about ``seconds`` and at least 5 rounds.

    A contestant makes one call and returns its seconds. Because they take turns, other work on the machine slows all
    of them alike. A fast contestant makes up to 100 calls in a round. Each round begins with another contestant.
    """
    names = list(contestants)
    # The first call of each is slow, so the better one of two says how many calls fit into a round.
    estimates = {name: min(contestants[name]() for _ in range(2)) for name in names}
    share = seconds / ROUNDS / len(names)
    calls = {name: max(1, min(MOST_CALLS, int(share / max(estimates[name], 1e-7)))) for name in names}
    rounds: dict[Name, list[tuple[float, ...]]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    turn = 0
    while turn < LEAST_ROUNDS or (turn < ROUNDS and time.perf_counter() < end):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            rounds[name].append(tuple(contestants[name]() for _ in range(calls[name])))
        turn += 1
    return {name: Timing(tuple(rounds[name])) for name in names}


def check_call(function: object, arguments: Sequence[object], donate: Any) -> tuple[int, ...]:
    """Checks the function, its arguments and the numbers of the donated arguments; returns these numbers."""
    if isinstance(function, Layer):
        remedy = "Write: lambda params, x: net.apply(params, state, x, train=False)[0], and give it params and x."
        raise InputError("function", "a function of arrays", "a network", remedy)
    check_function("function", function, "a function of arrays")
    for path, leaf in jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]:
        remedy = "Bind other values to the function: functools.partial(function, option=…)."
        check(f"argument {argument_name(path)}", leaf, "an array or a number", _is_traceable(leaf), remedy)
    numbers = (donate,) if isinstance(donate, Integral) else donate
    check("donate", donate, "an argument's number, or several", isinstance(numbers, tuple | list | range))
    return tuple(check_count("donate", number, least=0, most=len(arguments) - 1) for number in numbers)


def argument_name(path: KeyPath) -> str:
    """The name of a leaf among the arguments, such as ``0['weight']``."""
    number, *rest = path
    return f"{getattr(number, 'idx', number)}{jax.tree_util.keystr(tuple(rest))}"


def _is_traceable(leaf: object) -> bool:
    if is_array(leaf):
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or is_numeric(leaf) or leaf.dtype.kind == "c"
    if isinstance(leaf, int):
        return abs(leaf) <= LARGEST
    return isinstance(leaf, float | complex)
