"""A compiled program with what is known about it before it is timed, and a call of it to measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled

from functional_nn.bench.measure.timing import clocked, copies
from functional_nn.jaxprs.walk import fresh

STAGES = ("trace", "lower", "compile", "first_run")
"""The stages of a program, in order. A program that ``fit`` compiles has only the last two: its ``compile`` covers
tracing and lowering too."""


@dataclass(frozen=True)
class CompiledProgram:
    """A traced and compiled program.

    Args:
        jaxpr: the traced program.
        compiled: the executable.
        stages: seconds of each stage, by its name in ``STAGES``.
    """

    jaxpr: ClosedJaxpr
    compiled: Compiled
    stages: dict[str, float]

    @property
    def compiler_flops(self) -> float | None:
        """Floating-point operations as XLA counts them (a loop's body once); None if XLA gives no number."""
        flops = (self.compiled.cost_analysis() or {}).get("flops")
        if flops is None or not math.isfinite(flops) or flops < 0:
            return None
        return flops

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
    seconds_trace, traced = clocked(lambda: jitted.trace(*arguments))
    seconds_lower, lowered = clocked(traced.lower)
    seconds_compile, compiled = clocked(lowered.compile)
    seconds_first_run, _ = clocked(compiled, *copies(arguments, donate))
    seconds = (seconds_trace, seconds_lower, seconds_compile, seconds_first_run)
    return CompiledProgram(traced.jaxpr, compiled, dict(zip(STAGES, seconds, strict=True)))


def compile_empty_program(arguments: Sequence[object]) -> Compiled:
    """Compiles a program that takes these arguments and computes nothing."""
    return jax.jit(lambda *_: jnp.zeros(()), keep_unused=True).lower(*arguments).compile()
