"""``benchmark(function, *arguments)``: measurements of a compiled program, from tracing to steady state."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import jax

from functional_nn.bench.call_arguments import check_call, has_static_leaves, hide_static_leaves, taking_hidden
from functional_nn.bench.diagnose.explain import find_causes
from functional_nn.bench.measure.compiled_program import (
    CompiledProgram,
    MeasuredCall,
    compile_empty_program,
    compile_program,
)
from functional_nn.bench.measure.layer_times import LayerCost, layer_costs
from functional_nn.bench.measure.memory import memory_of
from functional_nn.bench.measure.peaks import Peaks, speedup, trials
from functional_nn.bench.measure.result import Benchmark
from functional_nn.bench.measure.timing import clocked, copies, race
from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_flag, check_number, shown
from functional_nn.jaxprs.bytes_moved import bytes_by_scope
from functional_nn.jaxprs.flops import flops_by_scope, uncounted
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
        *arguments: the arguments of the calls. A pytree may also have functions and texts as leaves, as an Equinox
            module has; they are constants of the program.
        name: the name in tables; by default the function's.
        donate: the numbers of the arguments to donate, such as 0 for a train state that the function updates. They are
            copied before each call; the time of the copy is not counted.
        seconds: about how long to measure; at least five rounds are run.
        layers: whether to time the part of each layer alone as well. The measurement then takes 1.5 times as long.

    Raises:
        InputError: if an argument is not an array, if ``donate`` has a number without an argument, or if the time is
            not positive.

    >>> import jax.numpy as jnp
    >>> result = benchmark(jnp.dot, jnp.ones((64, 64)), jnp.ones((64, 64)), seconds=0.01)
    >>> result.flops, result.bytes
    (524288, 49152)
    """
    donate = check_call(function, arguments, donate)
    if has_static_leaves(arguments):
        function, arguments = taking_hidden(function), tuple(map(hide_static_leaves, arguments))
    seconds = check_number("seconds", seconds, "a number above 0", lambda seconds: 0 < seconds < math.inf)
    layers = check_flag("layers", layers)
    if name is not None and not isinstance(name, str):
        raise InputError("name", "a text, or None for the function's own", shown(name))
    own_name: str = getattr(function, "__name__", type(function).__name__)
    with compiling_anew():
        program = compile_program(function, arguments)
        donated = compile_program(function, arguments, donate) if donate else None
        empty = compile_empty_program(arguments)
    measured = MeasuredCall(
        program,
        arguments,
        run=lambda: program.compiled(*arguments),
        run_empty=lambda: empty(*arguments),
        donated=donated,
        donate=donate,
    )
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
    times_faster = speedup(call.devices)

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
        compiler_flops=program.compiler_flops,
        peaks=Peaks(tuple(trial.rate(times[number], times_faster) for number, trial in enumerate(peak_trials))),
        reference=times[0],
        layers=layers,
        findings=find_causes(
            program.jaxpr, program.compiled, call.arguments, (*donate, *call.kept), jax.default_backend()
        ),
        uncounted={name: call.executions * number for name, number in sorted(uncounted(live_program).items())},
        devices=call.devices,
    )


def _dispatch_seconds(program: CompiledProgram, arguments: Sequence[object]) -> float:
    """The seconds until the call returns. Its outputs are waited for after the clock has stopped."""
    outputs: list[object] = []
    seconds, _ = clocked(lambda: outputs.append(program.compiled(*arguments)))
    jax.block_until_ready(outputs)
    return seconds
