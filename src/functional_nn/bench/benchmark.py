"""``benchmark(function, *arguments)``: measurements of a compiled program, from tracing to steady state."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax

from functional_nn.bench.compiled_program import (
    CompiledProgram,
    MeasuredCall,
    Memory,
    Timing,
    check_call,
    clocked,
    compile_empty_program,
    compile_program,
    copies,
    memory_of,
    race,
)
from functional_nn.bench.diagnose import Explanation, find_causes
from functional_nn.bench.layer_times import OUTSIDE, LayerCost, layer_costs
from functional_nn.bench.measured_peaks import Peaks, trials
from functional_nn.bench.units import in_bytes, in_flops, in_seconds, labeled
from functional_nn.core.display import html_text
from functional_nn.core.errors import check
from functional_nn.core.texts import aligned, cut_to_end, words
from functional_nn.core.validation import check_flag, check_number
from functional_nn.jaxprs.counts import bytes_by_scope, flops_by_scope, uncounted
from functional_nn.jaxprs.walk import live
from functional_nn.jaxprs.xla_options import compiling_anew


def benchmark(
    function: Callable[..., object],
    *arguments: object,
    name: str | None = None,
    donate: int | Sequence[int] = (),
    seconds: float = 2.0,
    layers: bool = False,
) -> Benchmark:
    """Measures a function as one compiled program: every stage, steady state, memory, and its share of the peaks.

    Steady state is measured in rounds. In each round, these take turns: the program, the same program with donated
    arguments, an empty program, and products and streams of bytes that show the peaks of the device. So the load of the
    machine is the same for all of them. The share is the program's median rate divided by the largest rate that any
    measurement reached in its best call. A share above 1.05 means that operations or bytes are counted wrongly.
    The peaks are measured on one device. For a program on several devices, they are multiplied by their number.

    Args:
        function: a function of pytrees of arrays. Bind other arguments to it, for example with ``functools.partial``.
        *arguments: the arguments of the calls.
        name: the name in tables; by default the function's.
        donate: the numbers of the arguments to donate, such as 0 for a train state that the function updates. They are
            copied before each call; the time of the copy is not counted.
        seconds: about how long to measure; at least five rounds are run.
        layers: whether to time the part of each layer alone as well. The measurement then takes 1.5 times as long.

    Raises:
        InputError: if an argument is not an array, if ``donate`` has a number without an argument, or if the time is
            not positive.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> result = fnn.benchmark(jnp.dot, jnp.ones((64, 64)), jnp.ones((64, 64)), seconds=0.01)
    >>> result.flops, result.bytes
    (524288, 49152)
    """
    donate = check_call(function, arguments, donate)
    seconds = check_number("seconds", seconds, "a number above 0", lambda seconds: 0 < seconds < math.inf)
    layers = check_flag("layers", layers)
    check("name", name, "a text, or None for the function's own", name is None or isinstance(name, str))
    own_name: str = getattr(function, "__name__", type(function).__name__)
    with compiling_anew():
        program = compile_program(function, arguments)
        donated = compile_program(function, arguments, donate) if donate else None
        empty = compile_empty_program(arguments)
    run, run_empty = partial(program.compiled, *arguments), partial(empty, *arguments)
    measured = MeasuredCall(program, arguments, run, run_empty, donated=donated, donate=donate)
    costs = layer_costs(live(program.jaxpr), arguments, seconds / 2 if layers else 0)
    return measure_call(own_name if name is None else name, measured, seconds, costs)


def measure_call(name: str, call: MeasuredCall, seconds: float, layers: tuple[LayerCost, ...]) -> Benchmark:
    """Measures a call for about ``seconds``, in turns with the measurements of the device's peaks."""
    program, donated, donate = call.program, call.donated, call.donate
    live_program = live(program.jaxpr)
    memory = memory_of((donated or program).compiled)
    # Of a program that is divided among devices, each device computes smaller products than the traced program shows.
    has_own_products = program.devices == 1
    peak_trials = trials(live_program, memory.peak if memory else 0, own_products=has_own_products)
    # CPU devices share the same cores.
    times_faster = 1 if jax.default_backend() == "cpu" else call.devices

    # "dispatch" stops its clock before the results are ready, all others after.
    contestants: dict[Hashable, Callable[[], float]] = {
        "steady": lambda: clocked(call.run)[0],
        "launch": lambda: clocked(call.run_empty)[0],
        "dispatch": lambda: _dispatch_seconds(program, call.arguments),
    }
    if donated is not None:
        contestants["donated"] = lambda: clocked(donated.compiled, *copies(call.arguments, donate))[0]
    contestants |= {number: trial.run for number, trial in enumerate(peak_trials)}
    times = race(contestants, seconds)

    return Benchmark(
        name=name,
        stages=program.stages,
        steady=times["steady"],
        donated=times.get("donated"),
        donate=donate,
        dispatch=times["dispatch"].median,
        launch=times["launch"],
        memory=memory,
        flops=call.executions * flops_by_scope(live_program).total(),
        bytes=call.executions * bytes_by_scope(live_program).total(),
        peaks=Peaks(tuple(trial.rate(times[number], times_faster) for number, trial in enumerate(peak_trials))),
        reference=times[0],
        layers=layers,
        findings=find_causes(program.jaxpr, program.compiled, call.arguments, (*donate, *call.kept)),
        uncounted={name: call.executions * number for name, number in sorted(uncounted(live_program).items())},
        devices=call.devices,
    )


def _dispatch_seconds(program: CompiledProgram, arguments: Sequence[object]) -> float:
    """The seconds until the call returns. Its outputs are waited for after the clock has stopped."""
    outputs: list[object] = []
    seconds, _ = clocked(lambda: outputs.append(program.compiled(*arguments)))
    jax.block_until_ready(outputs)
    return seconds


NEAR = 0.5
"""A bound limits a program if it accounts for at least this share of a call."""
BOUND_NAMES = {"compute": "arithmetic", "memory": "moving bytes", "launch": "starting the program"}
REMEDIES = {
    "compute": "near the peak of arithmetic: use fewer operations or a narrower type",
    "memory": "near the peak of memory: use a narrower type, or fewer steps between layers",
    "launch": "mostly the start of a program: use a larger batch",
    "": "far from all peaks: try other sizes, or another order of axes",
}
"""How to make a layer faster, by the bound that it is near; ``""`` for a layer that is near none."""
LABEL_WIDTH = 31
"""The room for the path of a layer in a table of 80 columns. ``to_dict`` has whole paths."""

LEAST_SHOWN = 0.005
"""A smaller share is printed as 0%."""
INTEGER_WORK = "moves, integers (except in matrix products), random bits, comparisons and sorts count as 0"


@dataclass(frozen=True, repr=False)
class Benchmark:
    """The measurements of a program. It prints as a table; its ``repr`` is one line.

    Args:
        name: the function's name, or the given one.
        stages: seconds for ``compile`` and ``first_run``, and for ``trace`` and ``lower``; the programs of ``fit`` and
            ``sweep`` do not have the last two, because they are traced while others are compiled.
        steady: the calls after the first.
        donated: the same calls with the ``donate`` arguments donated; None if there are none.
        donate: the numbers of the donated arguments.
        dispatch: the seconds until a call returns, while its outputs are still being computed.
        launch: calls of a program that takes the same arguments and computes nothing.
        memory: bytes that the program needs, with donation if it was measured; None where the platform does not report
            them. If a call runs several programs, this is the memory of one of them.
        flops: floating-point operations of one call, counted from the traced program.
        bytes: the least number of bytes that one call moves, counted from the traced program.
        peaks: the rates that the device reached in turns with this program.
        reference: the calls of the first peak measurement. They took turns with the program, round by round.
        layers: the cost of each layer, forward and backward.
        findings: the causes of slowness that ``explain`` finds in the program.
        uncounted: the operations that ``flops`` leaves out, because they have no known count, and how often one
            call runs each. The number of steps of a ``while`` loop is unknown; its body is counted once.
        devices: the number of devices that the program uses. ``peaks`` are those of all of them, ``memory`` is
            that of one.
    """

    name: str
    stages: dict[str, float]
    steady: Timing
    donated: Timing | None
    donate: tuple[int, ...]
    dispatch: float
    launch: Timing
    memory: Memory | None
    flops: int
    bytes: int
    peaks: Peaks
    reference: Timing
    layers: tuple[LayerCost, ...]
    findings: Explanation
    uncounted: dict[str, int] = field(default_factory=dict)
    devices: int = 1

    @property
    def timing(self) -> Timing:
        """The calls in steady state, with donation if it was measured."""
        return self.donated or self.steady

    @property
    def seconds(self) -> float:
        """The median seconds of a call in steady state, with donation if it was measured."""
        return self.timing.median

    @property
    def flops_per_second(self) -> float:
        """Floating-point operations per second in steady state."""
        return self.flops / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Bytes per second in steady state."""
        return self.bytes / self.seconds

    @property
    def shares(self) -> dict[str, float]:
        """The share of a call that each bound accounts for.

        ``compute`` is the program's operations per second divided by the largest measured rate. ``memory`` is the same
        for bytes. ``launch`` is the time of a call that computes nothing, divided by the time of a call.
        """
        return {**self._shares_of(self, self.seconds), "launch": min(self.launch.median / self.seconds, 1.0)}

    @property
    def bound(self) -> str | None:
        """The nearest bound if it accounts for at least half of a call, otherwise None."""
        nearest = self.nearest_bound
        return nearest if self.shares[nearest] >= NEAR else None

    @property
    def nearest_bound(self) -> str:
        """``compute``, ``memory`` or ``launch``: the bound that accounts for most of a call."""
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def roofline(self) -> float:
        """The share of the roofline: 1 if the program is as fast as its operations and its bytes allow."""
        return max(self.shares["compute"], self.shares["memory"])

    @property
    def verdict(self) -> str:
        """The bound in words."""
        nearest, share = self.nearest_bound, self.shares[self.nearest_bound]
        if share < LEAST_SHOWN:
            return "none is near; each explains less than 1% of a call"
        if self.bound is None:
            return f"none is near; the nearest is {nearest}, with {share:.0%} of a call"
        return f"{nearest}: {BOUND_NAMES[nearest]} accounts for {share:.0%} of a call"

    @property
    def slowest(self) -> str:
        """The layer that takes most of the time, and what would make it faster; empty if layers were not timed."""
        timed = [(cost.timing.median, cost) for cost in self.layers if cost.timing and cost.layer != OUTSIDE]
        if not timed:
            return ""
        seconds, cost = max(timed, key=lambda one: one[0])
        shares = {"launch": self.launch.median / seconds} | self._shares_of(cost, seconds)
        nearest = max(shares, key=shares.__getitem__)
        part = seconds / sum(time for time, _ in timed)
        remedy = REMEDIES[nearest if shares[nearest] >= NEAR else ""]
        return f"{self._label(cost)}, {part:.0%} of the time of all layers; {remedy}"

    def _shares_of(self, cost: LayerCost | Benchmark, seconds: float) -> dict[str, float]:
        """The shares of the peaks that a layer or the whole program reaches."""
        return {
            "compute": cost.flops / seconds / self.peaks.flops_per_second,
            "memory": cost.bytes / seconds / self.peaks.bytes_per_second,
        }

    def to_dict(self) -> dict[str, object]:
        """All measurements, ready for JSON."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "stages": self.stages,
            "steady": self.steady.to_dict(),
            "donated": self.donated and self.donated.to_dict(),
            "donate": self.donate,
            "dispatch_seconds": self.dispatch,
            "launch_seconds": self.launch.median,
            "program_devices": self.devices,
            "memory": self.memory and self.memory.to_dict(),
            "flops": self.flops,
            "not_counted": self.uncounted,
            "bytes": self.bytes,
            "flops_per_second": self.flops_per_second,
            "bytes_per_second": self.bytes_per_second,
            "shares": self.shares,
            "bound": self.bound,
            "nearest_bound": self.nearest_bound,
            "roofline": self.roofline,
            "reference": self.reference.to_dict(),
            "peaks": [rate._asdict() for rate in self.peaks.rates],
            "layers": [cost.to_dict() for cost in self.layers],
            "findings": self.findings.to_list(),
        }

    def __repr__(self) -> str:
        compile_time, run_time = in_seconds(self.stages["compile"]), in_seconds(self.seconds)
        roofline = f"{self.at_least}{self.roofline:.0%} of the roofline"
        missing = f", not counted: {self.uncounted_text}" if self.uncounted else ""
        return f"Benchmark({self.name}: compile {compile_time}, run {run_time}, {roofline}{missing})"

    _repr_html_ = html_text

    @property
    def at_least(self) -> str:
        """What stands before a share if some operations are not counted."""
        return "at least " if self.uncounted else ""

    @property
    def uncounted_text(self) -> str:
        """The uncounted operations as text: ``fft (2), while (1)``."""
        return ", ".join(f"{name} ({number})" for name, number in self.uncounted.items())

    def __str__(self) -> str:
        return "\n".join([*labeled(self._facts()), *self._layer_lines()])

    def _facts(self) -> Iterator[tuple[str, str]]:
        # The space keeps a long name apart from the text.
        yield f"{self.name} ", ", ".join(f"{words(name)} {in_seconds(time)}" for name, time in self.stages.items())
        yield "steady state", str(self.steady)
        if self.donated:
            numbers = ", ".join(map(str, self.donate))
            yield "donated", f"{self.donated}, argument {numbers} donated"
        yield "dispatch", f"a call returns after {in_seconds(self.dispatch)}"
        yield "launch", f"an empty program takes {in_seconds(self.launch.median)}"
        if self.devices > 1:
            yield "devices", f"{self.devices}; memory is that of one, the peaks are those of all"
        yield "memory", str(self.memory) if self.memory else "not reported by this platform"
        share = f"{self.at_least}{self.shares['compute']:.0%} of {in_flops(self.peaks.flops_per_second)}/s"
        yield "operations", f"{in_flops(self.flops)}, {in_flops(self.flops_per_second)}/s: {share}"
        if self.uncounted:
            yield "not counted", self.uncounted_text
        elif not self.flops:
            yield "", INTEGER_WORK
        share = f"{self.shares['memory']:.0%} of {in_bytes(self.peaks.bytes_per_second)}/s"
        yield "bytes", f"{in_bytes(self.bytes)}, {in_bytes(self.bytes_per_second)}/s: {share}"
        yield "roofline", f"{self.at_least}{self.roofline:.0%} of what the peaks allow for these operations and bytes"
        yield "bound", self.verdict
        if self.slowest:
            yield "slowest", self.slowest
        for finding in self.findings.findings:
            yield "warning", str(finding)

    def _layer_lines(self) -> list[str]:
        rows = [("each alone", "time", "operations", "of peak", "bytes", "of peak")]
        for cost in self.layers:
            if cost.timing:
                seconds = cost.timing.median
                compute, memory = (f"{share:.0%}" for share in self._shares_of(cost, seconds).values())
                operations, moved = in_flops(cost.flops), in_bytes(cost.bytes)
                name = cut_to_end(self._label(cost), LABEL_WIDTH)
                rows.append((name, in_seconds(seconds), operations, compute, moved, memory))
        return aligned(rows, numbers_from=1) if len(rows) > 1 else []

    def _label(self, cost: LayerCost) -> str:
        """The name of a row. Of a layer around others, it is what they leave, such as the addition of ``residual``."""
        is_around = any(other.layer.startswith(f"{cost.layer}/") for other in self.layers)
        return f"{cost.layer}{' itself' * is_around}{' backward' * cost.backward}"
