"""``benchmark(function, *arguments)``: a program from tracing to steady state, and how near it is to the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from functional_nn.bench.argument_checks import check_call
from functional_nn.bench.diagnose.explain import explained
from functional_nn.bench.diagnose.findings import Explanation
from functional_nn.bench.measure.layer_times import LayerCost, layer_costs
from functional_nn.bench.measure.memory import Memory, in_bytes, memory_of
from functional_nn.bench.measure.peaks import Peaks, trials
from functional_nn.bench.measure.timing import Timing, clocked, copies, in_seconds, race
from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_flag, check_number, shown
from functional_nn.jaxprs.bytes_moved import bytes_by_scope
from functional_nn.jaxprs.flops import flops_by_scope
from functional_nn.jaxprs.walk import fresh, live
from functional_nn.jaxprs.xla_options import compiling_anew

STAGES = ("trace", "lower", "compile", "first_run")
NEAR = 0.5
"""From this share of a bound on it is said to be what limits."""


@dataclass(frozen=True)
class Benchmark:
    """What was measured of a program; prints as a table.

    Args:
        name: of the function.
        stages: seconds for ``trace``, ``lower``, ``compile`` and ``first_run``.
        steady: calls after that.
        donated: the same of a program that is given its ``donate`` arguments; None where there are none.
        donate: the numbers of the arguments that are given away.
        dispatch: the seconds until a call returns, its outputs yet to come.
        launch: calls of a program of the same arguments that computes nothing.
        memory: bytes, of the donated program where there is one; None where the platform does not tell.
        flops: operations of one call, counted from the traced program.
        bytes: that one call moves at the least, counted likewise.
        compiler_flops: operations as XLA counts them, a loop's body once; None where it does not.
        peaks: what the device reached, in turns with this program.
        reference: calls of the first measurement of the peaks, round by round beside the program's.
        layers: what each outermost layer costs forward and backward.
        findings: what ``explain`` finds in the program.
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
    compiler_flops: float | None
    peaks: Peaks
    reference: Timing
    layers: tuple[LayerCost, ...]
    findings: Explanation

    @property
    def seconds(self) -> float:
        """Of one call in steady state, the median; with donation where it was tried."""
        return (self.donated or self.steady).median

    @property
    def flops_per_second(self) -> float:
        """Operations a second in steady state."""
        return self.flops / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Bytes a second in steady state."""
        return self.bytes / self.seconds

    @property
    def shares(self) -> dict[str, float]:
        """How much of a call each bound accounts for.

        ``compute``: operations a second of the largest rate that was measured beside the program; ``memory``: bytes a
        second likewise; ``dispatch``: what a call costs that computes nothing.
        """
        return {
            "compute": self.flops_per_second / self.peaks.flops_per_second,
            "memory": self.bytes_per_second / self.peaks.bytes_per_second,
            "dispatch": min(self.launch.median / self.seconds, 1.0),
        }

    @property
    def bound(self) -> str:
        """``compute``, ``memory`` or ``dispatch``: the bound that accounts for most of a call."""
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def roofline(self) -> float:
        """The share of what the roofline allows: 1 where the program is as quick as its operations and bytes let it."""
        return max(self.shares["compute"], self.shares["memory"])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "stages": self.stages,
            "steady": self.steady.to_dict(),
            "donated": self.donated and self.donated.to_dict(),
            "donate": self.donate,
            "dispatch_seconds": self.dispatch,
            "launch_seconds": self.launch.median,
            "memory": self.memory and {**self.memory._asdict(), "peak": self.memory.peak},
            "flops": self.flops,
            "bytes": self.bytes,
            "compiler_flops": self.compiler_flops,
            "flops_per_second": self.flops_per_second,
            "bytes_per_second": self.bytes_per_second,
            "shares": self.shares,
            "bound": self.bound,
            "reference": self.reference.to_dict(),
            "peaks": [rate._asdict() for rate in self.peaks.rates],
            "layers": [cost.to_dict() for cost in self.layers],
            "findings": self.findings.to_list(),
        }

    def __str__(self) -> str:
        lines = [f"{name:14}{text}" for name, text in self._lines()]
        return "\n".join([*lines, *self._layer_lines()])

    def _layer_lines(self) -> Iterator[str]:
        costs = [(cost, cost.timing.median) for cost in self.layers if cost.timing]
        if not costs:
            return
        peaks, width = self.peaks, max(len(cost.layer) for cost, _ in costs) + 9
        yield f"{'each alone':{width}}  {'time':>8}  {'operations':>11}  {'of peak':>7}  {'bytes':>7}  {'of peak':>7}"
        for cost, seconds in costs:
            name = f"{cost.layer} backward" if cost.backward else cost.layer
            shares = cost.flops / seconds / peaks.flops_per_second, cost.bytes / seconds / peaks.bytes_per_second
            yield (
                f"{name:{width}}  {in_seconds(seconds):>8}  {in_flops(cost.flops):>11}  {shares[0]:7.0%}"
                f"  {in_bytes(cost.bytes):>7}  {shares[1]:7.0%}"
            )

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield self.name, ", ".join(f"{stage.replace('_', ' ')} {in_seconds(self.stages[stage])}" for stage in STAGES)
        yield "steady state", str(self.steady)
        if self.donated:
            numbers = ", ".join(map(str, self.donate))
            yield "donated", f"{self.donated}, argument {numbers} given away"
        yield (
            "dispatch",
            f"returns after {in_seconds(self.dispatch)}; computing nothing takes {in_seconds(self.launch.median)}",
        )
        yield "memory", str(self.memory) if self.memory else "not told by this platform"
        by_compiler = "" if self.compiler_flops is None else f" (XLA counts {in_flops(self.compiler_flops)})"
        yield (
            "operations",
            f"{in_flops(self.flops)}, {in_flops(self.flops_per_second)}/s: {self.shares['compute']:.0%} of "
            f"{in_flops(self.peaks.flops_per_second)}/s{by_compiler}",
        )
        yield (
            "bytes",
            f"{in_bytes(self.bytes)}, {in_bytes(self.bytes_per_second)}/s: {self.shares['memory']:.0%} of "
            f"{in_bytes(self.peaks.bytes_per_second)}/s",
        )
        yield "bound", self.verdict
        for finding in self.findings.findings:
            yield "warning", str(finding)

    @property
    def verdict(self) -> str:
        """The bound in words."""
        share = self.shares[self.bound]
        what = {"compute": "arithmetic", "memory": "moving bytes", "dispatch": "starting the program"}[self.bound]
        if share >= NEAR:
            return f"{self.bound}: {what} accounts for {share:.0%} of a call"
        return f"none is near; the nearest is {self.bound}, which accounts for {share:.0%} of a call"


def benchmark(
    function: Callable[..., Any],
    *arguments: Any,
    name: str | None = None,
    donate: int | Sequence[int] = (),
    seconds: float = 2.0,
    layers: bool = False,
) -> Benchmark:
    """Measures a function as one compiled program: every stage, steady state, memory, and its share of the device.

    Steady state is taken in rounds in which the program, the same one with donated arguments, one that computes
    nothing, and products and streams of bytes take turns, so that all meet the same machine. A rate of the program
    (its median) is a share of the largest rate that any of these reached (in its best call), so a share above 1 would
    be a fault of the count.

    Args:
        function: of pytrees of arrays; any other argument has to be bound to it, as by ``functools.partial``.
        *arguments: what it is called with.
        name: in tables; by default the function's.
        donate: numbers of the arguments to give away, such as 0 for a train state that comes back changed. They are
            copied before each call, off the clock.
        seconds: for the rounds, about; at least five are run.
        layers: whether to time each layer's part alone as well, for half as long again.

    Raises:
        InputError: for arguments that are no arrays, numbers to donate that are no argument's, and no time.

    >>> result = benchmark(jnp.dot, jnp.ones((64, 64)), jnp.ones((64, 64)), seconds=0.01)
    >>> result.flops, result.bytes
    (524288, 49152)
    """
    donate = check_call(function, arguments, donate)
    seconds = check_number("seconds", seconds, "a number above 0", lambda seconds: 0 < seconds < math.inf)
    layers = check_flag("layers", layers)
    if name is not None and not isinstance(name, str):
        raise InputError("name", "a text, or None for the function's own", shown(name))
    with compiling_anew():
        stages, traced, compiled = _stages(function, arguments, ())
        given = _stages(function, arguments, donate)[2] if donate else None
        nothing = jax.jit(lambda *_: jnp.zeros(()), keep_unused=True).lower(*arguments).compile()
    program = live(traced.jaxpr)
    memory = memory_of(given or compiled)
    tried = trials(program, memory.peak if memory else 0)
    contestants: dict[Any, Callable[[], float]] = {
        "steady": lambda: clocked(compiled, *arguments)[0],
        "launch": lambda: clocked(nothing, *arguments)[0],
        "dispatch": lambda: _dispatch(compiled, arguments),
    }
    if given:
        contestants["donated"] = lambda: clocked(given, *copies(arguments, donate))[0]
    contestants |= {number: trial.run for number, trial in enumerate(tried)}
    times = race(contestants, seconds)
    return Benchmark(
        name=name or getattr(function, "__name__", type(function).__name__),
        stages=stages,
        steady=times["steady"],
        donated=times.get("donated"),
        donate=donate,
        dispatch=times["dispatch"].median,
        launch=times["launch"],
        memory=memory,
        flops=flops_by_scope(program).total(),
        bytes=bytes_by_scope(program).total(),
        compiler_flops=_compiler_flops(compiled),
        peaks=Peaks(tuple(trial.rate(times[number]) for number, trial in enumerate(tried))),
        reference=times[0],
        layers=layer_costs(program, arguments, seconds / 2 if layers else 0),
        findings=explained(function, traced, compiled, arguments, donate),
    )


def in_flops(number: float) -> str:
    """Operations in three digits.

    >>> in_flops(59_765_128)
    '59.8 MFLOP'
    """
    return in_bytes(number).replace("kB", "kFLOP").replace("B", "FLOP").replace("FLFLOP", "FLOP")


def _stages(function: Callable[..., Any], arguments: Sequence[Any], donate: Sequence[int]) -> tuple[Any, Any, Any]:
    """Seconds of every stage, the traced program and the compiled one."""
    jitted = jax.jit(fresh(function), donate_argnums=tuple(donate))
    trace, traced = clocked(lambda: jitted.trace(*arguments))
    lower, lowered = clocked(traced.lower)
    compiling, compiled = clocked(lowered.compile)
    first_run, _ = clocked(compiled, *copies(arguments, donate))
    return dict(zip(STAGES, (trace, lower, compiling, first_run), strict=True)), traced, compiled


def _dispatch(compiled: Any, arguments: Sequence[Any]) -> float:
    """Seconds until the call returns; its outputs are waited for afterwards."""
    late: list[Any] = []
    seconds, _ = clocked(lambda: late.append(compiled(*arguments)))
    jax.block_until_ready(late)
    return seconds


def _compiler_flops(compiled: Any) -> float | None:
    counted = (compiled.cost_analysis() or {}).get("flops")
    return counted if counted is not None and math.isfinite(counted) and counted >= 0 else None
